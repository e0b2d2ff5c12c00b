import argparse
import pathlib
import shutil

parser = argparse.ArgumentParser()
parser.add_argument("--input_model", required=True)
parser.add_argument("--custom_model_output", required=True)
args = parser.parse_args()

print(pathlib.Path(args.input_model, "MLmodel").read_text())
shutil.copytree(args.input_model, args.custom_model_output, dirs_exist_ok=True)
