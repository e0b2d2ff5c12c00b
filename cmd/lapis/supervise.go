package main

import "lapis/backend/process"

// supervise runs one task to its end. The server starts it; see
// backend/process.
func supervise() int { return process.Supervise() }
