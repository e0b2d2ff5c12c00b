package onnx

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"strconv"
	"time"
	"unsafe"

	"lapis/native/tensor"
)

// types are ours by those of ONNX.
var types = [...]tensor.Type{
	1: tensor.Float32, 2: tensor.Uint8, 3: tensor.Int8, 4: tensor.Uint16, 5: tensor.Int16, 6: tensor.Int32, 7: tensor.Int64,
	8: tensor.Bytes, 9: tensor.Bool, 10: tensor.Float16, 11: tensor.Float64, 12: tensor.Uint32, 13: tensor.Uint64, 16: tensor.BFloat16,
}

var numbers = func() (n [len(types)]uintptr) {
	for i, t := range types {
		if t != tensor.None {
			n[t] = uintptr(i)
		}
	}
	return n
}()

// The kinds of values.
const (
	valueTensor   = 1
	valueSequence = 2
	valueMap      = 3
)

// Session is a model that is loaded. Its methods may be called by several at
// once.
type Session struct {
	Inputs  []tensor.Info
	Outputs []tensor.Info

	lib      *Library
	session  uintptr
	inNames  []*byte
	outNames []*byte
}

// Options say how a session runs.
type Options struct {
	Threads int // for one run
}

// Open loads a model.
func (l *Library) Open(path string, o Options) (*Session, error) {
	out := borrow(2)
	defer give(out)
	if err := l.call(fnCreateOptions, out.at(0)); err != nil {
		return nil, err
	}
	options := out.words[0]
	defer l.release(fnReleaseOptions, options)
	const all = 99
	for _, set := range []struct {
		fn    int
		value uintptr
	}{{fnSetGraphLevel, all}, {fnSetIntraOpThreads, uintptr(max(o.Threads, 1))}, {fnSetInterOpThreads, 1}} {
		if err := l.call(set.fn, options, set.value); err != nil {
			return nil, err
		}
	}
	for _, entry := range [][2]string{
		// Threads that wait by spinning take the time that other instances need.
		{"session.intra_op.allow_spinning", "0"}, {"session.inter_op.allow_spinning", "0"},
	} {
		key, value := cstring(entry[0]), cstring(entry[1])
		err := l.call(fnAddConfigEntry, options, address(key), address(value))
		runtime.KeepAlive(key)
		runtime.KeepAlive(value)
		if err != nil {
			return nil, err
		}
	}
	file := cstring(path)
	err := l.call(fnCreateSession, l.env, address(file), options, out.at(1))
	runtime.KeepAlive(file)
	if err != nil {
		return nil, err
	}
	s := &Session{lib: l, session: out.words[1]}
	if s.Inputs, s.inNames, err = s.describe(fnInputCount, fnInputName, fnInputTypeInfo); err == nil {
		s.Outputs, s.outNames, err = s.describe(fnOutputCount, fnOutputName, fnOutputTypeInfo)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	for _, in := range s.Inputs {
		if in.Type == tensor.None {
			s.Close()
			return nil, fmt.Errorf("its input %q is not a tensor of a type that can be sent", in.Name)
		}
	}
	return s, nil
}

// Close frees the model. Nobody may be running it.
func (s *Session) Close() { s.lib.release(fnReleaseSession, s.session) }

// describe reads what the model says of its inputs or outputs.
func (s *Session) describe(count, name, info int) ([]tensor.Info, []*byte, error) {
	out := borrow(3)
	defer give(out)
	if err := s.lib.call(count, s.session, out.at(0)); err != nil {
		return nil, nil, err
	}
	n := int(out.words[0])
	infos, names := make([]tensor.Info, n), make([]*byte, n)
	for i := range n {
		if err := s.lib.call(name, s.session, uintptr(i), s.lib.allocator, out.at(1)); err != nil {
			return nil, nil, err
		}
		infos[i].Name = text(out.words[1])
		names[i] = cstring(infos[i].Name)
		if err := s.lib.call(fnFree, s.lib.allocator, out.words[1]); err != nil {
			return nil, nil, err
		}
		if err := s.lib.call(info, s.session, uintptr(i), out.at(2)); err != nil {
			return nil, nil, err
		}
		err := s.lib.typeInfo(out.words[2], &infos[i])
		s.lib.release(fnReleaseTypeInfo, out.words[2])
		if err != nil {
			return nil, nil, err
		}
	}
	return infos, names, nil
}

func (l *Library) typeInfo(info uintptr, into *tensor.Info) error {
	out := borrow(2)
	defer give(out)
	if err := l.call(fnTypeOfInfo, info, out.at(0)); err != nil {
		return err
	}
	switch kind := int32(out.words[0]); kind {
	case valueSequence:
		// Of maps, as classifiers of scikit-learn give them: a row each.
		into.Type, into.Shape = tensor.Float32, []int64{-1, -1}
		return nil
	case valueTensor:
	default:
		return nil
	}
	if err := l.call(fnCastToTensorInfo, info, out.at(1)); err != nil || out.words[1] == 0 {
		return err
	}
	var err error
	into.Type, into.Shape, err = l.shape(out.words[1], nil)
	return err
}

// shape reads a type and a shape; it appends the lengths to into.
func (l *Library) shape(info uintptr, into []int64) (tensor.Type, []int64, error) {
	out := borrow(2)
	defer give(out)
	if err := l.call(fnElementType, info, out.at(0)); err != nil {
		return 0, nil, err
	}
	if err := l.call(fnDimensionCount, info, out.at(1)); err != nil {
		return 0, nil, err
	}
	kind, n := int(int32(out.words[0])), int(out.words[1])
	if n > 0 {
		dims := borrow(n)
		defer give(dims)
		if err := l.call(fnDimensions, info, dims.at(0), uintptr(n)); err != nil {
			return 0, nil, err
		}
		for _, d := range dims.words[:n] {
			into = append(into, int64(d))
		}
	}
	if into == nil {
		into = []int64{}
	}
	if kind < 0 || kind >= len(types) {
		return tensor.None, into, nil
	}
	return types[kind], into, nil
}

// ErrMissing is a run without a value for an input that needs one.
var ErrMissing = errors.New("an input is missing")

// Run runs the model. Inputs come in the model's order; wanted are the numbers
// of the outputs, which come in that order. At the deadline, unless it is zero,
// the run is told to end, which it does with an error.
func (s *Session) Run(inputs []tensor.Tensor, wanted []int, deadline time.Time) ([]tensor.Tensor, error) {
	if len(inputs) != len(s.Inputs) {
		return nil, ErrMissing
	}
	ni, no := len(inputs), len(wanted)
	w := borrow(2*ni + 2*no)
	defer give(w)
	inNames, inValues, outNames, outValues := 0, ni, 2*ni, 2*ni+no
	defer func() {
		for i := range ni {
			s.lib.release(fnReleaseValue, w.words[inValues+i])
		}
		for i := range no {
			s.lib.release(fnReleaseValue, w.words[outValues+i])
		}
		runtime.KeepAlive(inputs)
	}()
	for i := range inputs {
		w.words[inNames+i] = address(s.inNames[i])
		value, err := s.lib.value(&inputs[i])
		if err != nil {
			return nil, err
		}
		w.words[inValues+i] = value
	}
	for i, n := range wanted {
		w.words[outNames+i] = address(s.outNames[n])
	}
	from := func(i, n int) uintptr {
		if n == 0 {
			return 0
		}
		return w.at(i)
	}
	limited, options, err := s.lib.watch.begin(deadline)
	if err != nil {
		return nil, err
	}
	defer s.lib.watch.end(limited)
	if err := s.lib.call(fnRun, s.session, options, from(inNames, ni), from(inValues, ni), uintptr(ni),
		from(outNames, no), uintptr(no), from(outValues, no)); err != nil {
		return nil, err
	}
	out := make([]tensor.Tensor, no)
	for i, n := range wanted {
		if err := s.lib.read(w.words[outValues+i], &out[i]); err != nil {
			return nil, fmt.Errorf("output %s: %w", s.Outputs[n].Name, err)
		}
		out[i].Name = s.Outputs[n].Name
	}
	runtime.KeepAlive(s)
	return out, nil
}

// value makes a value of the library over the elements of a tensor, which must
// stay alive and as they are.
func (l *Library) value(t *tensor.Tensor) (uintptr, error) {
	w := borrow(len(t.Shape) + 2)
	defer give(w)
	for i, d := range t.Shape {
		w.words[2+i] = uintptr(d)
	}
	dims := uintptr(0)
	if len(t.Shape) > 0 {
		dims = w.at(2)
	}
	if err := t.Check(); err != nil {
		return 0, err
	}
	if t.Type == tensor.Bytes {
		if err := l.call(fnCreateTensor, l.allocator, dims, uintptr(len(t.Shape)), numbers[tensor.Bytes], w.at(0)); err != nil {
			return 0, err
		}
		value := w.words[0]
		for i, s := range t.Strings {
			if err := l.call(fnStringBuffer, value, uintptr(i), uintptr(len(s)), w.at(1)); err != nil {
				l.release(fnReleaseValue, value)
				return 0, err
			}
			if len(s) > 0 {
				copy(unsafe.Slice((*byte)(foreign(w.words[1])), len(s)), s)
			}
		}
		return value, nil
	}
	if size := uintptr(t.Type.Size()); len(t.Data) == 0 || uintptr(unsafe.Pointer(&t.Data[0]))%size != 0 {
		// An empty tensor needs an address as well, and elements one that is a
		// multiple of their size.
		aligned := make([]uint64, len(t.Data)/8+1)
		data := unsafe.Slice((*byte)(unsafe.Pointer(&aligned[0])), len(t.Data)+1)
		t.Data = data[:copy(data, t.Data)]
		if len(t.Data) == 0 {
			keepOnHeap(&data[0])
			err := l.call(fnCreateTensorOver, l.memory, uintptr(unsafe.Pointer(&aligned[0])), 0, dims, uintptr(len(t.Shape)), numbers[t.Type], w.at(0))
			return w.words[0], err
		}
	}
	keepOnHeap(&t.Data[0])
	err := l.call(fnCreateTensorOver, l.memory, uintptr(unsafe.Pointer(&t.Data[0])), uintptr(len(t.Data)), dims, uintptr(len(t.Shape)), numbers[t.Type], w.at(0))
	return w.words[0], err
}

// read copies a value of the library.
func (l *Library) read(value uintptr, into *tensor.Tensor) error {
	w := borrow(3)
	defer give(w)
	if value == 0 {
		return errors.New("the model gave none")
	}
	if err := l.call(fnValueType, value, w.at(0)); err != nil {
		return err
	}
	switch kind := int32(w.words[0]); kind {
	case valueTensor:
		return l.readTensor(value, into)
	case valueSequence:
		return l.readMaps(value, into)
	default:
		return fmt.Errorf("values of kind %d are not known here", kind)
	}
}

func (l *Library) readTensor(value uintptr, into *tensor.Tensor) error {
	w := borrow(3)
	defer give(w)
	if err := l.call(fnTensorInfoOf, value, w.at(0)); err != nil {
		return err
	}
	var err error
	into.Type, into.Shape, err = l.shape(w.words[0], make([]int64, 0, 4))
	l.release(fnReleaseTensorInfo, w.words[0])
	if err != nil {
		return err
	}
	n, ok := tensor.Elements(into.Shape)
	if !ok || into.Type == tensor.None {
		return fmt.Errorf("a tensor of shape %s and a type that is not known here", tensor.Text(into.Shape))
	}
	if into.Type == tensor.Bytes {
		into.Strings, err = l.strings(value, n)
		return err
	}
	into.Data = make([]byte, n*into.Type.Size())
	if n == 0 {
		return nil
	}
	if err := l.call(fnTensorData, value, w.at(1)); err != nil {
		return err
	}
	copy(into.Data, unsafe.Slice((*byte)(foreign(w.words[1])), len(into.Data)))
	return nil
}

func (l *Library) strings(value uintptr, n int) ([]string, error) {
	out := make([]string, n)
	if n == 0 {
		return out, nil
	}
	w := borrow(n + 1)
	defer give(w)
	if err := l.call(fnStringsLength, value, w.at(n)); err != nil {
		return nil, err
	}
	size := int(w.words[n])
	all := make([]byte, size+1)
	keepOnHeap(&all[0])
	if err := l.call(fnStrings, value, address(&all[0]), uintptr(size), w.at(0), uintptr(n)); err != nil {
		return nil, err
	}
	for i := range out {
		end := size
		if i+1 < n {
			end = int(w.words[i+1])
		}
		out[i] = string(all[w.words[i]:end])
	}
	return out, nil
}

// readMaps reads a sequence of maps as one table: a row for each, a column for
// each key.
func (l *Library) readMaps(value uintptr, into *tensor.Tensor) error {
	w := borrow(2)
	defer give(w)
	if err := l.call(fnValueCount, value, w.at(0)); err != nil {
		return err
	}
	rows := int(w.words[0])
	into.Type = tensor.Float32
	columns := map[string]int{}
	var table [][]float64
	for i := range rows {
		if err := l.call(fnValue, value, uintptr(i), l.allocator, w.at(1)); err != nil {
			return err
		}
		keys, values, err := l.readMap(w.words[1])
		l.release(fnReleaseValue, w.words[1])
		if err != nil {
			return err
		}
		into.Whole = keys.Type != tensor.Bytes
		row := make([]float64, len(into.Keys), max(len(into.Keys), values.Len()))
		for j := range row {
			row[j] = math.NaN()
		}
		for j := range values.Len() {
			var key string
			if into.Whole {
				key = strconv.FormatInt(int64(keys.Float(j)), 10)
			} else {
				key = keys.Strings[j]
			}
			at, known := columns[key]
			if !known {
				at = len(columns)
				columns[key] = at
				into.Keys = append(into.Keys, key)
				row = append(row, math.NaN())
			}
			row[at] = values.Float(j)
		}
		table = append(table, row)
	}
	into.Shape = []int64{int64(rows), int64(len(into.Keys))}
	for _, row := range table {
		for j := range into.Keys {
			f := math.NaN()
			if j < len(row) {
				f = row[j]
			}
			into.Data = tensor.AppendFloat(into.Data, tensor.Float32, f)
		}
	}
	return nil
}

func (l *Library) readMap(value uintptr) (keys, values tensor.Tensor, err error) {
	w := borrow(2)
	defer give(w)
	if err := l.call(fnValueType, value, w.at(0)); err != nil {
		return keys, values, err
	}
	if kind := int32(w.words[0]); kind != valueMap {
		return keys, values, fmt.Errorf("a sequence of values of kind %d", kind)
	}
	for i, into := range []*tensor.Tensor{&keys, &values} {
		if err := l.call(fnValue, value, uintptr(i), l.allocator, w.at(1)); err != nil {
			return keys, values, err
		}
		err := l.readTensor(w.words[1], into)
		l.release(fnReleaseValue, w.words[1])
		if err != nil {
			return keys, values, err
		}
	}
	return keys, values, nil
}
