package main

import (
	"runtime"

	"lapis/fault"
)

// settings are what `lapis up` can be told.
type settings struct {
	Data   string // the data folder; "" for the usual one
	Listen string // HOST:PORT
	// Scoring is where the callers of online endpoints are answered, HOST:PORT;
	// "": where it was the last time, at first localhost:7444.
	Scoring string
	Only    string // "gateway": run that alone

	URLs  []string // names the server goes by; none: https://localhost:PORT
	Slots int      // jobs that run at once
	Debug bool     // log reads too

	Instances int // of all online deployments together, that may run at once

	// TrashDays is how many days deleted runs and experiments can be restored;
	// 0: until somebody removes them.
	TrashDays int

	PrivateWebhooks bool // webhooks may reach private and loopback addresses
}

func defaultSettings() settings {
	return settings{Listen: "localhost:7443", Slots: runtime.NumCPU(), Instances: 200, TrashDays: 30}
}

const (
	maxSlots     = 10_000
	maxTrashDays = 36_500
)

// Check names the setting that is wrong and the remedy.
func (s settings) Check() error {
	if s.Only != "" && s.Only != "gateway" {
		return fault.Invalid("--only %q is not known; the one part that runs alone is gateway.", s.Only)
	}
	if s.Slots < 1 || s.Slots > maxSlots {
		return fault.Invalid("--slots is %d; it must be between 1 and %d.", s.Slots, maxSlots)
	}
	if s.Instances < 1 || s.Instances > maxSlots {
		return fault.Invalid("--instances is %d; it must be between 1 and %d.", s.Instances, maxSlots)
	}
	if s.TrashDays < 0 || s.TrashDays > maxTrashDays {
		return fault.Invalid("--trash-days is %d; it must be between 0 (what is deleted stays until somebody removes it) and %d.", s.TrashDays, maxTrashDays)
	}
	return nil
}
