package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	"lapis/ml/serving"
	"lapis/native"
	"lapis/native/catalog"
	"lapis/native/score"
	"lapis/processors"
	"lapis/socket"
)

// instance loads the model and answers until it is told to go.
func instance(ctx context.Context) int {
	// What a request leaves behind is small and short-lived.
	debug.SetGCPercent(400)
	pipe := os.NewFile(3, "parent")
	begun := time.Now()
	n, l, err := open()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		tell(pipe, word{Error: err.Error(), Fatal: true})
		return 1
	}
	fmt.Fprintf(os.Stdout, "Instance %s is ready after %d ms.\n", n.ID, time.Since(begun).Milliseconds())
	tell(pipe, word{})
	go processors.Fit(ctx, nil)
	if err := n.Serve(ctx, socket.Listen(l)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func tell(pipe *os.File, w word) {
	b, err := json.Marshal(w)
	if err == nil {
		_, err = pipe.Write(b)
	}
	if e := pipe.Close(); err == nil {
		err = e
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "nobody hears that this instance is up:", err)
	}
}

// open loads the models and opens the socket.
func open() (*native.Instance, net.Listener, error) {
	folder, id := os.Getenv(serving.GroupFolder), os.Getenv(serving.GroupName)
	k, err := strconv.Atoi(os.Getenv(number))
	if err != nil {
		return nil, nil, fmt.Errorf("%s must be the number of the instance: %w", number, err)
	}
	loaded, err := catalog.Load(catalog.Source{
		Path: os.Getenv(serving.GroupModel), Flavor: os.Getenv(serving.GroupFlavor), ID: os.Getenv(serving.GroupModelID),
		Library: os.Getenv(serving.GroupLibrary), BatchSize: os.Getenv(serving.GroupBatchSize), BatchDelay: os.Getenv(serving.GroupBatchDelay),
	})
	if err != nil {
		return nil, nil, err
	}
	l, err := native.Listen(folder, k)
	if err != nil {
		return nil, nil, err
	}
	return native.New(fmt.Sprintf("%s/%d", id, k), stamp, &loaded.Models, score.New(loaded)), l, nil
}
