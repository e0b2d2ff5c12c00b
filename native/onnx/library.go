// Package onnx runs ONNX models through ONNX Runtime's C interface, without cgo.
package onnx

import (
	"fmt"
	"path/filepath"
	"runtime"
	"sort"
	"sync"
	"unsafe"

	"github.com/ebitengine/purego"
)

// The functions that we call, by their place in the table of the C interface.
// Places never change: new functions are appended.
const (
	fnGetErrorMessage     = 2
	fnCreateEnv           = 3
	fnCreateSession       = 7
	fnRun                 = 9
	fnCreateOptions       = 10
	fnSetGraphLevel       = 23
	fnSetIntraOpThreads   = 24
	fnSetInterOpThreads   = 25
	fnInputCount          = 30
	fnOutputCount         = 31
	fnInputTypeInfo       = 33
	fnOutputTypeInfo      = 34
	fnInputName           = 36
	fnOutputName          = 37
	fnCreateRunOptions    = 39
	fnTerminate           = 46
	fnCreateTensor        = 48
	fnCreateTensorOver    = 49
	fnTensorData          = 51
	fnStringsLength       = 53
	fnStrings             = 54
	fnCastToTensorInfo    = 55
	fnTypeOfInfo          = 56
	fnElementType         = 60
	fnDimensionCount      = 61
	fnDimensions          = 62
	fnTensorInfoOf        = 65
	fnValueType           = 67
	fnCreateCPUMemoryInfo = 69
	fnFree                = 76
	fnDefaultAllocator    = 78
	fnValue               = 80
	fnValueCount          = 81
	fnReleaseStatus       = 93
	fnReleaseSession      = 95
	fnReleaseValue        = 96
	fnReleaseRunOptions   = 97
	fnReleaseTypeInfo     = 98
	fnReleaseTensorInfo   = 99
	fnReleaseOptions      = 100
	fnAddConfigEntry      = 130
	fnStringBuffer        = 252
	fnCount               = 253
)

// apiVersion is that of the first release with all of these.
const apiVersion = 16

// Library is ONNX Runtime, loaded. There is at most one in a process.
type Library struct {
	Version string

	fn        [fnCount]uintptr
	env       uintptr
	memory    uintptr // what tensors over our own memory are made with
	allocator uintptr
	watch     watch
}

var (
	loading sync.Mutex
	loaded  *Library
)

// Load loads the library from a folder. A second call returns the first one's.
func Load(folder string) (*Library, error) {
	loading.Lock()
	defer loading.Unlock()
	if loaded != nil {
		return loaded, nil
	}
	found, err := filepath.Glob(filepath.Join(folder, "libonnxruntime.so*"))
	if err != nil || len(found) == 0 {
		return nil, fmt.Errorf("there is no libonnxruntime.so in %s", folder)
	}
	sort.Strings(found)
	handle, err := purego.Dlopen(found[0], purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("ONNX Runtime does not load: %w", err)
	}
	base, err := purego.Dlsym(handle, "OrtGetApiBase")
	if err != nil {
		return nil, fmt.Errorf("%s is not ONNX Runtime: %w", found[0], err)
	}
	// OrtApiBase: GetApi(version), GetVersionString().
	table, _, _ := purego.SyscallN(base)
	version, _, _ := purego.SyscallN(word(table, 1))
	api, _, _ := purego.SyscallN(word(table, 0), apiVersion)
	l := &Library{Version: text(version)}
	l.watch.lib = l
	if api == 0 {
		return nil, fmt.Errorf("ONNX Runtime %s is too old: 1.16 is the first that is known here", l.Version)
	}
	for i := range l.fn {
		l.fn[i] = word(api, i)
	}
	out := new([3]uintptr)
	const onlyErrors = 3
	name := cstring("lapis")
	err = l.call(fnCreateEnv, onlyErrors, address(name), at(out, 0))
	runtime.KeepAlive(name)
	if err != nil {
		return nil, err
	}
	const arena, defaultMemory = 1, 0
	if err := l.call(fnCreateCPUMemoryInfo, arena, defaultMemory, at(out, 1)); err != nil {
		return nil, err
	}
	if err := l.call(fnDefaultAllocator, at(out, 2)); err != nil {
		return nil, err
	}
	l.env, l.memory, l.allocator = out[0], out[1], out[2]
	loaded = l
	return l, nil
}

// Error is what ONNX Runtime says.
type Error struct{ Message string }

func (e *Error) Error() string { return e.Message }

// call calls a function that returns a status.
func (l *Library) call(fn int, args ...uintptr) error {
	status, _, _ := purego.SyscallN(l.fn[fn], args...)
	if status == 0 {
		return nil
	}
	message, _, _ := purego.SyscallN(l.fn[fnGetErrorMessage], status)
	err := &Error{text(message)}
	purego.SyscallN(l.fn[fnReleaseStatus], status)
	return err
}

// release frees a thing of the library; 0 is none.
func (l *Library) release(fn int, thing uintptr) {
	if thing != 0 {
		purego.SyscallN(l.fn[fn], thing)
	}
}

// foreign is memory that is not Go's. The indirection tells the compiler and
// vet that the address did not come from a Go pointer.
func foreign(address uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&address)) }

// word is word i of foreign memory.
func word(address uintptr, i int) uintptr {
	return *(*uintptr)(unsafe.Add(foreign(address), i*int(unsafe.Sizeof(address))))
}

// text is a C string.
func text(address uintptr) string {
	if address == 0 {
		return ""
	}
	n := 0
	for *(*byte)(unsafe.Add(foreign(address), n)) != 0 {
		n++
	}
	return string(unsafe.Slice((*byte)(foreign(address)), n))
}

// cstring is a string that ends with a zero, on the heap.
func cstring(s string) *byte {
	b := make([]byte, len(s)+1)
	copy(b, s)
	keepOnHeap(&b[0])
	return &b[0]
}

// sink makes what is handed to the library escape to the heap: a goroutine's
// stack moves, the heap does not.
//
//lint:ignore U1000 it is there to be written
var sink unsafe.Pointer

//go:noinline
func keepOnHeap(b *byte) {
	if b == nil {
		sink = unsafe.Pointer(b)
	}
}

// address is where a byte on the heap lies; the caller keeps it alive.
func address(b *byte) uintptr { return uintptr(unsafe.Pointer(b)) }

// at is where word i of an array on the heap lies.
func at(words *[3]uintptr, i int) uintptr {
	keepOnHeap((*byte)(unsafe.Pointer(words)))
	return uintptr(unsafe.Pointer(&words[i]))
}

// scratch is a block on the heap for what calls are given and give.
type scratch struct{ words []uintptr }

func (s *scratch) at(i int) uintptr { return uintptr(unsafe.Pointer(&s.words[i])) }

var scratches = sync.Pool{New: func() any { return &scratch{words: make([]uintptr, 64)} }}

// borrow returns zeroed words; give gives them back.
func borrow(n int) *scratch {
	s := scratches.Get().(*scratch)
	if len(s.words) < n {
		s.words = make([]uintptr, n)
	}
	clear(s.words[:n])
	return s
}

func give(s *scratch) {
	runtime.KeepAlive(s)
	scratches.Put(s)
}
