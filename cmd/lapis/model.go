package main

import (
	"github.com/spf13/cobra"
)

func modelCommand() *cobra.Command {
	n := (&noun{
		name: "model", collection: "models", versioned: true,
		fields:  map[string]string{"description": "properties.description", "tags": "properties.tags", "properties": "properties.properties", "stage": "properties.stage"},
		columns: []string{"name", "version", "type", "path"},
	}).start("Manage models", `  lapis model create --name iris --path azureml://jobs/JOB/outputs/model --type mlflow_model
  lapis model download --name iris --version 1`)
	f := &createFlags{}
	cmd := n.create("create", "Create a model from a file or from flags", `  lapis model create -f model.yml
  lapis model create -n iris --type mlflow_model --path azureml://jobs/JOB/outputs/model`, f, nil)
	f.field(cmd, "path", "p", "path", "local path, or address, of the model")
	f.field(cmd, "type", "t", "type", "custom_model, mlflow_model or triton_model")
	f.field(cmd, "description", "d", "description", "description")
	f.field(cmd, "stage", "", "stage", "stage of the model")
	f.field(cmd, "datastore", "", "datastore", "datastore to upload to")
	n.assetVerbs()
	var name, version, label, dir string
	cmd = n.verb("download", "Download a model", "  lapis model download --name iris --version 1 --download-path .", func(cmd *cobra.Command, s *session) error {
		v, err := n.pick(cmd, s, name, version, label)
		if err != nil {
			return err
		}
		count, err := s.DownloadModel(cmd.Context(), name, v, dir)
		if err != nil {
			return err
		}
		s.progress.say("Downloaded %d files to %s", count, dir)
		return nil
	})
	n.nameFlag(cmd, &name)
	n.versionFlags(cmd, &version, &label)
	cmd.Flags().StringVarP(&dir, "download-path", "p", ".", "folder to download to")
	_ = cmd.MarkFlagDirname("download-path")
	n.notYet("package", "Package a model")
	return n.cmd
}
