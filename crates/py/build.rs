//! Hands the interpreter's version and build flags (`Py_3_12`, `Py_GIL_DISABLED`, ...) to this crate as cfgs.

fn main() {
    pyo3_build_config::use_pyo3_cfgs();
}
