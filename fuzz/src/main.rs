//! libFuzzer around one target, which `FUZZ_TARGET` names. `scripts/fuzz.sh` builds and runs it.
#![no_main]

use std::sync::OnceLock;

use lb_fuzz::targets::{TARGETS, Target};
use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<&Target> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let target = TARGETS.iter().find(|target| target.name == name);
        TARGET.get_or_init(|| target.unwrap_or_else(|| panic!("FUZZ_TARGET={name}: there is no such target")));
    },
    |data: &[u8]| {
        if let Some(target) = TARGET.get() { (target.run)(data) }
    }
);
