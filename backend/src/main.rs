//! The `gpu-bridge-backend` binary: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    gpu_bridge_backend::cli::main()
}
