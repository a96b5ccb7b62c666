//! The command line: `lbctl`, and the commands that it speaks as well.

pub mod director;
pub mod ipvsadm;
