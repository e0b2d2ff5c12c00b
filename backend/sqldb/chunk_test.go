package sqldb

import (
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"lapis/ml/tracking"
)

// shapes are kinds of values that metrics have.
var shapes = map[string]func(r *rand.Rand, i int) float64{
	"four digits":      func(r *rand.Rand, _ int) float64 { return math.Round(r.Float64()*1e4) / 1e4 },
	"a tenth random":   func(r *rand.Rand, i int) float64 { return tenth(r, i) },
	"32 bits":          func(r *rand.Rand, i int) float64 { return float64(float32(math.Exp(-float64(i)/1e3) + r.Float64()/10)) },
	"64 random bits":   func(r *rand.Rand, _ int) float64 { return math.Float64frombits(r.Uint64()) },
	"random":           func(r *rand.Rand, _ int) float64 { return r.NormFloat64() },
	"integers":         func(_ *rand.Rand, i int) float64 { return float64(i * 3) },
	"one value":        func(*rand.Rand, int) float64 { return 0.1 },
	"learning rate":    func(_ *rand.Rand, i int) float64 { return 1e-3 * math.Pow(0.999, float64(i)) },
	"zeros and no num": func(r *rand.Rand, _ int) float64 { return []float64{0, math.Copysign(0, -1), math.NaN(), 1}[r.IntN(4)] },
	"the largest": func(r *rand.Rand, _ int) float64 {
		return []float64{math.MaxFloat64, -math.MaxFloat64, 5e-324}[r.IntN(3)]
	},
}

func tenth(r *rand.Rand, i int) float64 {
	if i%10 == 9 {
		return r.Float64()
	}
	return math.Round(r.Float64()*1e4) / 1e4
}

func shaped(shape func(*rand.Rand, int) float64, n int) []tracking.Point {
	r := rand.New(rand.NewPCG(5, 6))
	p := make([]tracking.Point, n)
	ms := int64(1_700_000_000_000)
	for i := range p {
		ms += 40 + r.Int64N(20)
		if r.IntN(200) == 0 {
			ms += 60_000
		}
		p[i] = tracking.Point{Step: int64(i), Time: ms, Value: shape(r, i)}
	}
	return p
}

func identical(a, b tracking.Point) bool {
	return a.Step == b.Step && a.Time == b.Time && math.Float64bits(a.Value) == math.Float64bits(b.Value)
}

func TestAChunkGivesBackWhatWasPacked(t *testing.T) {
	for name, shape := range shapes {
		for _, n := range []int{0, 1, 2, 255, 256, 257, chunkPoints} {
			p := shaped(shape, n)
			packed := packChunk(p)
			got, err := unpackChunk(packed, []tracking.Point{{Step: 7}})
			if err != nil || len(got) != n+1 || got[0].Step != 7 {
				t.Fatalf("%s, %d points: %d, %v", name, n, len(got), err)
			}
			for i := range p {
				if !identical(p[i], got[i+1]) {
					t.Fatalf("%s: point %d of %d: %v, want %v", name, i, n, got[i+1], p[i])
				}
			}
			if n == chunkPoints {
				t.Logf("%-17s %.2f bytes a point", name, float64(len(packed))/float64(n))
			}
		}
	}
}

func TestAnyPointsGoThroughAChunk(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		integer := rapid.OneOf(rapid.Int64(), rapid.Int64Range(-3, 300), rapid.Just(int64(1)))
		value := rapid.OneOf(rapid.Float64(), rapid.Map(rapid.Int64Range(-1e6, 1e6), func(i int64) float64 { return float64(i) / 1e3 }),
			rapid.Map(rapid.Float32(), func(f float32) float64 { return float64(f) }), rapid.Map(rapid.Uint64(), math.Float64frombits))
		n := rapid.IntRange(0, 600).Draw(t, "n")
		p := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) tracking.Point {
			return tracking.Point{Step: integer.Draw(t, "step"), Time: integer.Draw(t, "time"), Value: value.Draw(t, "value")}
		}), n, n).Draw(t, "points")
		got, err := unpackChunk(packChunk(p), nil)
		if err != nil || len(got) != len(p) {
			t.Fatalf("%d of %d points, %v", len(got), len(p), err)
		}
		for i := range p {
			if !identical(p[i], got[i]) {
				t.Fatalf("point %d: %v, want %v", i, got[i], p[i])
			}
		}
	})
}

func TestADamagedChunkIsNoticed(t *testing.T) {
	packed := packChunk(shaped(tenth, 1000))
	for i := range packed {
		for _, flip := range []byte{1, 0x80} {
			packed[i] ^= flip
			if _, err := unpackChunk(packed, nil); err == nil {
				t.Fatalf("byte %d of %d was changed and nobody noticed", i, len(packed))
			}
			packed[i] ^= flip
		}
	}
	for n := range packed {
		if _, err := unpackChunk(packed[:n], nil); err == nil {
			t.Fatalf("only %d of %d bytes were there and nobody noticed", n, len(packed))
		}
	}
}

// Chunks of the form before this one are in databases.
func TestAChunkOfTheOlderFormIsRead(t *testing.T) {
	packed, err := hex.DecodeString(olderChunk)
	if err != nil {
		t.Fatal(err)
	}
	got, err := unpackChunk(packed, nil)
	if err != nil || len(got) != 5 {
		t.Fatalf("%d points, %v", len(got), err)
	}
	for i, p := range got {
		want := tracking.Point{Step: int64(i * 2), Time: 1_700_000_000_000 + int64(i*i), Value: 1 / float64(i+1)}
		if !identical(p, want) {
			t.Errorf("point %d: %v, want %v", i, p, want)
		}
	}
}

const olderChunk = "28b52ffd04008d0100940205000400000080a0abfef962fd9fabfef962040404000055559a0000555599f0103505193f000000000154150311234fe7b4ba"

func BenchmarkChunk(b *testing.B) {
	for _, name := range []string{"a tenth random", "32 bits", "random"} {
		p := shaped(shapes[name], chunkPoints)
		packed := packChunk(p)
		b.Run(fmt.Sprintf("pack/%s", name), func(b *testing.B) {
			for b.Loop() {
				packChunk(p)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(p)), "ns/point")
		})
		b.Run(fmt.Sprintf("unpack/%s", name), func(b *testing.B) {
			dst := make([]tracking.Point, 0, chunkPoints)
			for b.Loop() {
				if _, err := unpackChunk(packed, dst); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(p)), "ns/point")
		})
	}
}
