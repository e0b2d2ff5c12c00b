//go:build race

package main

// The program that the tests start has the race detector in it, as they do.
func init() { raceFlags = []string{"-race"} }
