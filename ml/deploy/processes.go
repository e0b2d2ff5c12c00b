package deploy

import (
	"lapis/resource"
)

// Process is an instance as the machine sees it.
type Process struct {
	Deployment resource.ID
	Instance   string // its id, as the gateway has it
	PID        int    // it, and all it has started, is the instance
	Siblings   int    // instances of the deployment, itself included
}

// Processes are the instances that run on this machine.
func (d *Deployer) Processes() []Process {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []Process
	for _, g := range d.groups {
		for _, in := range g.instances {
			if in.PID > 0 {
				all = append(all, Process{Deployment: g.deployment, Instance: instanceID(g, in.Number), PID: in.PID, Siblings: len(g.instances)})
			}
		}
	}
	return all
}
