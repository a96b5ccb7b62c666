//! `lbctl`: asks and tells the daemon. Also `ipvsadm` and others, when called by a link of that name.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(lb_control::cli::main(std::env::args_os().collect()))
}
