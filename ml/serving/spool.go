package serving

// The gateway keeps collected payloads in its spool, a folder collect/ in its
// own, until the control plane takes them away: as CloudEvents, one JSON object
// on a line, in files
//
//	{endpoint}/{deployment}/{collection}/{UTC time, 20060102T150405.000000000Z}.jsonl
//
// where the collection is "request" or "response". A file of that name is whole
// and is never touched again; who has taken it away deletes it. One that ends in
// ".part" is still being written.
//
// A payload that is JSON stands in "data" as it is, other text as a string, and
// what is no text in "data_base64".
const (
	SpoolFolder = "collect"
	SpoolEnding = ".jsonl"
)
