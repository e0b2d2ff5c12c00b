package environment

import (
	"fmt"
	"slices"
	"strings"

	"lapis/pattern"
)

// onPyPI gives the PyPI name of conda packages that are called otherwise there.
var onPyPI = map[string]string{
	"cudf":                   "cudf-cu12",
	"dask-core":              "dask",
	"faiss":                  "faiss-cpu",
	"faiss-gpu":              "faiss-cpu",
	"fbprophet":              "prophet",
	"libopencv":              "opencv-python-headless",
	"matplotlib-base":        "matplotlib",
	"msgpack-python":         "msgpack",
	"numpy-base":             "numpy",
	"opencv":                 "opencv-python-headless",
	"psycopg2":               "psycopg2-binary",
	"py-opencv":              "opencv-python-headless",
	"py-xgboost":             "xgboost",
	"py-xgboost-cpu":         "xgboost",
	"py-xgboost-gpu":         "xgboost",
	"pyarrow-core":           "pyarrow",
	"pyqt":                   "pyqt5",
	"pytables":               "tables",
	"python-flatbuffers":     "flatbuffers",
	"python-graphviz":        "graphviz",
	"python-kubernetes":      "kubernetes",
	"python-levenshtein":     "levenshtein",
	"python-lmdb":            "lmdb",
	"python-tzdata":          "tzdata",
	"python-xxhash":          "xxhash",
	"pytorch":                "torch",
	"pytorch-cpu":            "torch",
	"pytorch-gpu":            "torch",
	"ray-core":               "ray",
	"ray-default":            "ray[default]",
	"ray-tune":               "ray[tune]",
	"ruamel_yaml":            "ruamel.yaml",
	"seaborn-base":           "seaborn",
	"tensorflow-base":        "tensorflow",
	"tensorflow-mkl":         "tensorflow",
	"tensorflow-gpu":         "tensorflow",
	"torchvision-cpu":        "torchvision",
	"uvicorn-standard":       "uvicorn[standard]",
	"huggingface_accelerate": "accelerate",
}

// notOnPyPI matches conda packages that have no PyPI counterpart: compilers,
// system libraries, and what wheels bring along themselves.
var notOnPyPI = pattern.New(`^(` +
	`_.*|blas|boost.*|bzip2|c-compiler|ca-certificates|cairo|clang.*|cmake|compilers|conda.*|` +
	`cpuonly|cuda.*|cudatoolkit.*|cudnn|curl|cxx-compiler|ffmpeg|fortran-compiler|freetds|gcc.*|gfortran.*|git|git-lfs|glib|gxx.*|` +
	`hdf5|icu|jpeg|krb5|ld_impl.*|lib(blas|cblas|cublas|cudnn|curl|ffi|gcc|gfortran|gomp|iconv|lapack|png|sndfile|stdcxx|tiff|uuid|xcb|xgboost|xml2|zlib).*|` +
	`llvm-openmp|llvmdev|m2w64-.*|make|mamba|micromamba|mkl|mkl-service|mkl_fft|mkl_random|mpi|mpich|nccl|ncurses|ninja-base|nodejs|` +
	`nomkl|openblas|openjdk|openmpi|openssl|pandoc|perl|pkg-config|pytorch-cuda|pytorch-mutex|r-.*|readline|sqlite|swig|` +
	`sysroot.*|tbb|tk|ucx|unixodbc|unzip|vc|vs20.*|wget|xz|yaml|zip|zlib|zstd` +
	`)$`)

// Requirements returns the recipe as lines of a pip requirements file: the
// conda packages under their PyPI names, then the pip lines. Notes say what was
// renamed and what was left out.
func (r Recipe) Requirements() (lines, notes []string, err error) {
	var renamed, left, loosened []string
	for _, text := range r.Conda {
		s, err := ParseSpec(text)
		if err != nil {
			return nil, nil, err
		}
		if notOnPyPI.MatchString(s.Name) {
			left = append(left, s.Name)
			continue
		}
		version, lossy := s.pip()
		name := s.Name
		if other, ok := onPyPI[name]; ok {
			name = other
		}
		if name == "pip" && version == "" {
			continue // every environment has it
		}
		if lossy {
			loosened = append(loosened, text+" as "+name+version)
		}
		if name != s.Name {
			renamed = append(renamed, s.Name+" as "+name)
		}
		lines = append(lines, name+version)
	}
	if len(lines) > 0 {
		notes = append(notes, fmt.Sprintf("conda packages are installed from PyPI (%d of %d)", len(lines), len(r.Conda)))
	}
	if len(renamed) > 0 {
		notes = append(notes, "conda packages under their PyPI names: "+strings.Join(renamed, ", "))
	}
	if len(loosened) > 0 {
		notes = append(notes, "conda packages with a choice of versions: "+strings.Join(loosened, ", "))
	}
	if len(left) > 0 {
		notes = append(notes, "conda packages left out, PyPI has no counterpart: "+strings.Join(left, ", "))
	}
	return append(lines, slices.Clone(r.Pip)...), notes, nil
}
