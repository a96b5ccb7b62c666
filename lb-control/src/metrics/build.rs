//! `lb_build_info`: which program this is.

use super::Family;
use crate::daemon::{Control, VERSION};

pub(super) fn gather(control: &Control) -> Vec<Family> {
    let info = Family::gauge("lb_build_info", "Always 1; its labels say which program this is.")
        .with(&[("version", VERSION), ("arch", std::env::consts::ARCH)], 1);
    let uptime = Family::gauge("lb_uptime_seconds", "Seconds since the daemon was ready.")
        .with(&[], control.status().uptime);
    vec![info, uptime]
}
