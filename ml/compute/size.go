package compute

import (
	"sort"
	"strconv"
	"strings"

	"lapis/pattern"
)

// Size is an instance type, in Azure's name for it.
type Size struct {
	Name     string  `json:"name"`
	Family   string  `json:"family"`
	VCPUs    int     `json:"vCPUs"`
	MemoryGB float64 `json:"memoryGB"`
	GPUs     int     `json:"gpus"`
	DiskGB   int     `json:"osVhdSizeMB,omitempty"`
}

// series tells how much memory, in GB, a core of a series comes with, and how
// many cores a GPU comes with.
var series = map[string]struct {
	perCore float64
	perGPU  int
}{
	"A": {2, 0}, "B": {4, 0}, "D": {4, 0}, "DC": {4, 0}, "E": {8, 0}, "EC": {8, 0}, "F": {2, 0}, "FX": {21, 0}, "G": {14, 0}, "H": {7, 0},
	"HB": {4, 0}, "HC": {8, 0}, "L": {8, 0}, "M": {28, 0},
	"NC": {9, 6}, "ND": {12, 6}, "NV": {9, 6}, "NP": {17, 0},
}

// The numbers of these older sizes are no count of cores.
var numbered = map[string][2]float64{
	"D1": {1, 3.5}, "D2": {2, 7}, "D3": {4, 14}, "D4": {8, 28}, "D5": {16, 56},
	"D11": {2, 14}, "D12": {4, 28}, "D13": {8, 56}, "D14": {16, 112}, "D15": {20, 140},
	"A1": {1, 1.75}, "A2": {2, 3.5}, "A3": {4, 7}, "A4": {8, 14},
}

// Burstable sizes come with less memory the smaller they are.
var burstable = map[string]float64{"B1LS": 0.5, "B1S": 1, "B1MS": 2, "B2S": 4}

var sizeName = pattern.New(`(?i)^(STANDARD|BASIC)_([A-Z]{1,2}?)(S?)(\d{1,3})(?:-(\d{1,3}))?([A-Z]*)((?:_[A-Z0-9]+)*)$`)

// ParseSize reads the name of an instance type. What it is made of follows from
// the name, as Azure forms it.
func ParseSize(name string) (Size, bool) {
	m := sizeName.FindStringSubmatch(name)
	if m == nil {
		return Size{}, false
	}
	letters := strings.ToUpper(m[2])
	n, _ := strconv.Atoi(m[4])
	if n < 1 {
		return Size{}, false
	}
	s, known := series[letters]
	if !known {
		return Size{}, false
	}
	size := Size{Name: name, Family: "standard" + letters + "Family", VCPUs: n, MemoryGB: float64(n) * s.perCore}
	legacy := m[3] != "" || m[6] == "" // STANDARD_DS3_V2, Standard_D3_v2, Standard_A2
	version := strings.ToUpper(m[7])
	old, isOld := numbered[letters+m[4]]
	isOld = isOld && legacy && (version == "" || strings.HasPrefix(version, "_V2"))
	switch {
	case isOld:
		size.VCPUs, size.MemoryGB = int(old[0]), old[1]
	case letters == "D" && legacy && (version == "" || strings.HasPrefix(version, "_V2")):
		return Size{}, false // they have been numbered to their end
	case n > 1 && n%2 == 1 && letters != "A" && letters != "G": // those count sizes, others cores
		return Size{}, false
	}
	if gb, ok := burstable[letters+m[4]+strings.ToUpper(m[6])]; ok {
		size.MemoryGB = gb
	}
	if s.perGPU > 0 {
		size.GPUs = max(1, size.VCPUs/s.perGPU)
		if letters == "NC" && strings.Contains(version, "A100") {
			size.GPUs = max(1, size.VCPUs/24)
		}
	}
	return size, true
}

// Sizes are the instance types that lists show; others of Azure's names are
// taken as well.
func Sizes() []Size {
	names := []string{
		"Standard_DS1_v2", "Standard_DS2_v2", "Standard_DS3_v2", "Standard_DS4_v2", "Standard_DS5_v2",
		"Standard_DS11_v2", "Standard_DS12_v2", "Standard_DS13_v2", "Standard_DS14_v2", "Standard_DS15_v2",
		"Standard_D1_v2", "Standard_D2_v2", "Standard_D3_v2", "Standard_D4_v2", "Standard_D5_v2", "Standard_D11_v2", "Standard_D12_v2",
		"Standard_D13_v2", "Standard_D14_v2", "Standard_D2_v3", "Standard_D4_v3", "Standard_D8_v3", "Standard_D16_v3", "Standard_D32_v3", "Standard_D64_v3",
		"Standard_D2s_v3", "Standard_D4s_v3", "Standard_D8s_v3", "Standard_D16s_v3", "Standard_D32s_v3",
		"Standard_D2as_v4", "Standard_D4as_v4", "Standard_D8as_v4", "Standard_D16as_v4", "Standard_D2s_v5", "Standard_D4s_v5", "Standard_D8s_v5",
		"Standard_E2s_v3", "Standard_E4s_v3", "Standard_E8s_v3", "Standard_E16s_v3", "Standard_E32s_v3", "Standard_E4ds_v4", "Standard_E8ds_v4",
		"Standard_F2s_v2", "Standard_F4s_v2", "Standard_F8s_v2", "Standard_F16s_v2", "Standard_F32s_v2",
		"Standard_L8s_v3", "Standard_L16s_v3", "Standard_M8ms", "Standard_M16ms", "Standard_M64ms",
		"Standard_NC6s_v3", "Standard_NC12s_v3", "Standard_NC24s_v3", "Standard_NC4as_T4_v3", "Standard_NC8as_T4_v3", "Standard_NC16as_T4_v3", "Standard_NC64as_T4_v3",
		"Standard_NC24ads_A100_v4", "Standard_NC48ads_A100_v4", "Standard_NC96ads_A100_v4", "Standard_ND40rs_v2", "Standard_ND96asr_v4", "Standard_ND96amsr_A100_v4",
		"Standard_NV6", "Standard_NV12", "Standard_NV24",
	}
	var sizes []Size
	for _, name := range names {
		if s, ok := ParseSize(name); ok {
			sizes = append(sizes, s)
		}
	}
	sort.Slice(sizes, func(i, j int) bool { return sizes[i].Name < sizes[j].Name })
	return sizes
}

// Near are the names of the instance types that are most like a name that is
// none.
func Near(name string, most int) []string {
	sizes := Sizes()
	want := strings.ToLower(name[:min(len(name), 64)])
	sort.SliceStable(sizes, func(i, j int) bool {
		return distance(want, strings.ToLower(sizes[i].Name)) < distance(want, strings.ToLower(sizes[j].Name))
	})
	var near []string
	for _, s := range sizes[:min(most, len(sizes))] {
		near = append(near, s.Name)
	}
	return near
}

// distance is how many characters have to be put in, taken out or changed to make
// one text of the other.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := before
			if a[i] != b[j] {
				cost++
			}
			before = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
