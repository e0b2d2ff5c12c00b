package compute

import (
	"strings"
)

// Offer is an instance type as clients list it.
type Offer struct {
	Name           string   `json:"name"`
	Family         string   `json:"family"`
	VCPUs          int      `json:"vCPUs"`
	GPUs           int      `json:"gpus"`
	DiskMB         int      `json:"osVhdSizeMB"`
	MaxMB          int      `json:"maxResourceVolumeMB"`
	MemoryGB       float64  `json:"memoryGB"`
	LowPriority    bool     `json:"lowPriorityCapable"`
	PremiumIO      bool     `json:"premiumIO"`
	SupportedTypes []string `json:"supportedComputeTypes"`
}

// Offers are the instance types that lists show. Instances have no low
// priority; kind, if it is not "", chooses those for one type of compute.
func Offers(kind string) []Offer {
	offers := []Offer{}
	types := []string{"AmlCompute", "ComputeInstance"}
	if kind != "" && !strings.EqualFold(kind, types[0]) && !strings.EqualFold(kind, types[1]) {
		return offers
	}
	for _, s := range Sizes() {
		offers = append(offers, Offer{Name: s.Name, Family: s.Family, VCPUs: s.VCPUs, GPUs: s.GPUs, DiskMB: 1047552,
			MaxMB: int(s.MemoryGB * 2048), MemoryGB: s.MemoryGB, LowPriority: true, PremiumIO: true, SupportedTypes: types})
	}
	return offers
}
