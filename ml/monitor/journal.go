package monitor

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"lapis/file"
	"lapis/ml/serving"
)

// What is measured lies in three kinds of files: minutes-DAY.jsonl and
// hours-MONTH.jsonl have a line for each minute and hour that is over; now.json
// has the minute that runs and the counters as they were last read, and is
// replaced as a whole. A line that the end of the machine has cut off is passed
// over; a minute that stands in now.json alone is written to its file when the
// next monitor starts. So nothing is counted twice, and what the gateway has
// counted while the server was down is found in its counters.
type journal struct {
	lastMinute, lastHour int64
}

// kept is a minute that is over, and the hour if it ends with it.
type kept struct {
	Minute int64
	Cells  map[key]cell
	Hour   int64
	Hours  map[key]cell
}

// record is one line of a file: the values of a minute or of an hour.
type record struct {
	At    int64   `json:"at"` // Unix minutes
	Cells []value `json:"values"`
}

type value struct {
	Resource string `json:"resource"`
	Metric   string `json:"metric"`
	Dims     string `json:"dims,omitempty"`
	cell
}

// present is what now.json holds.
type present struct {
	State *serving.State `json:"state,omitempty"`
	Last  *record        `json:"last,omitempty"` // the minute before
	Open  record         `json:"open"`
}

const presentFile = "now.json"

func recordOf(at int64, cells map[key]cell) record {
	r := record{At: at, Cells: make([]value, 0, len(cells))}
	for k, c := range cells {
		r.Cells = append(r.Cells, value{k.Resource, k.Metric, k.Dims, c})
	}
	return r
}

func minutesFile(at int64) string {
	return "minutes-" + time.Unix(at*60, 0).UTC().Format("2006-01-02") + ".jsonl"
}

func hoursFile(at int64) string {
	return "hours-" + time.Unix(at*60, 0).UTC().Format("2006-01") + ".jsonl"
}

// keep writes what is known: the counters and the open minute, and what is over.
func (m *Monitor) keep(k *kept) error {
	if m.Dir == "" {
		return nil
	}
	p := present{State: m.last, Open: recordOf(m.minute, m.open)}
	if k != nil {
		last := recordOf(k.Minute, k.Cells)
		p.Last = &last
	}
	raw, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode metrics: %w", err)
	}
	if err := file.Replace(filepath.Join(m.Dir, presentFile), raw, 0o600); err != nil {
		return err
	}
	if k == nil {
		return nil
	}
	if err := m.append(minutesFile(k.Minute), *p.Last); err != nil {
		return err
	}
	if len(k.Hours) > 0 && k.Hour > m.journal.lastHour {
		if err := m.append(hoursFile(k.Hour), recordOf(k.Hour, k.Hours)); err != nil {
			return err
		}
		m.journal.lastHour = k.Hour
		m.sweep()
	}
	m.journal.lastMinute = k.Minute
	return nil
}

// append adds a line to a file; nothing is written of an empty record.
func (m *Monitor) append(name string, r record) error {
	if len(r.Cells) == 0 {
		return nil
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode metrics: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(m.Dir, name), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	// A line that was cut off ends here.
	if _, err = f.Write(append(append([]byte{'\n'}, raw...), '\n')); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// sweep removes the files of what is past its time.
func (m *Monitor) sweep() {
	entries, err := os.ReadDir(m.Dir)
	if err != nil {
		return
	}
	now := m.Now()
	day := minutesFile(minuteOf(now.Add(-minutesFor)))
	month := hoursFile(minuteOf(now.Add(-hoursFor)))
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, "minutes-") && name < day || strings.HasPrefix(name, "hours-") && name < month {
			os.Remove(filepath.Join(m.Dir, name))
		}
	}
}

// load reads what an earlier monitor has kept.
func (m *Monitor) load() error {
	if err := os.MkdirAll(m.Dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(m.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case strings.HasPrefix(name, "minutes-"):
			err = m.each(name, func(r record) {
				m.journal.lastMinute = max(m.journal.lastMinute, r.At)
				m.restore(r, func(l *line, c cell) { l.minutes = put(l.minutes, c) })
			})
		case strings.HasPrefix(name, "hours-"):
			err = m.each(name, func(r record) {
				m.journal.lastHour = max(m.journal.lastHour, r.At)
				m.restore(r, func(l *line, c cell) { l.hours = put(l.hours, c) })
			})
		case strings.HasPrefix(name, "."+presentFile+"-"):
			os.Remove(filepath.Join(m.Dir, name))
		}
		if err != nil {
			return err
		}
	}
	if err := m.loadPresent(); err != nil {
		return err
	}
	m.foldMissed()
	m.series.trim(minuteOf(m.Now()))
	return nil
}

func (m *Monitor) restore(r record, to func(*line, cell)) {
	for _, v := range r.Cells {
		c := v.cell
		c.At = r.At
		to(m.series.line(key{v.Resource, v.Metric, v.Dims}), c)
		m.series.seen(v.Resource, r.At)
	}
}

func (m *Monitor) loadPresent() error {
	raw, err := os.ReadFile(filepath.Join(m.Dir, presentFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var p present
	if err := json.Unmarshal(raw, &p); err != nil {
		m.Log.Warn("the metrics of the last minute are lost: "+presentFile+" is damaged", "err", err)
		return nil
	}
	m.last = p.State
	if p.Last != nil && p.Last.At > m.journal.lastMinute {
		m.restore(*p.Last, func(l *line, c cell) { l.minutes = put(l.minutes, c) })
		if err := m.append(minutesFile(p.Last.At), *p.Last); err != nil {
			return err
		}
		m.journal.lastMinute = p.Last.At
	}
	if p.Open.At > m.journal.lastMinute {
		m.minute = p.Open.At // it is closed by the first reading if it is over
		for _, v := range p.Open.Cells {
			m.open[key{v.Resource, v.Metric, v.Dims}] = v.cell
		}
		m.restore(p.Open, func(l *line, c cell) { l.minutes = put(l.minutes, c) })
	}
	return nil
}

// foldMissed makes the hours that ended while nobody was there to see it.
func (m *Monitor) foldMissed() {
	current := minuteOf(m.Now())
	if m.minute != 0 {
		current = min(current, m.minute)
	}
	for hour := max(m.journal.lastHour+60, current-current%60-int64(minutesFor/time.Minute)); hour+60 <= current; hour += 60 {
		folded := m.series.fold(hour)
		if len(folded) == 0 {
			continue
		}
		for k, c := range folded {
			l := m.series.line(k)
			l.hours = put(l.hours, c)
		}
		if err := m.append(hoursFile(hour), recordOf(hour, folded)); err != nil {
			m.Log.Error("keep metrics", "err", err)
			return
		}
		m.journal.lastHour = hour
	}
}

// each reads the whole lines of a file.
func (m *Monitor) each(name string, take func(record)) error {
	f, err := os.Open(filepath.Join(m.Dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(make([]byte, 64<<10), 64<<20)
	for lines.Scan() {
		var r record
		if len(lines.Bytes()) == 0 || json.Unmarshal(lines.Bytes(), &r) != nil {
			continue
		}
		take(r)
	}
	return lines.Err()
}
