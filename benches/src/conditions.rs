//! Under what conditions the figures came about: a number without them says nothing.

use std::fs;
use std::process::Command;

/// Each with its name, in the order in which they are printed.
pub(crate) struct Conditions(Vec<(&'static str, String)>);

impl Conditions {
    /// Looks at this machine as it is now. `memory` says what the tables lie on, `pinned` where is measured.
    pub(crate) fn gather(mode: &str, memory: &str, pinned: &str) -> Conditions {
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
        Conditions(vec![
            ("date", output("date", &["-u", "+%F %T UTC"])),
            ("commit", commit()),
            ("mode", mode.to_owned()),
            ("CPU", format!("{}, {cores} cores", model.map_or("unknown", |(_, model)| model))),
            ("measured on", pinned.to_owned()),
            ("kernel", read("/proc/sys/kernel/osrelease")),
            ("memory of tables", memory.to_owned()),
            ("DPDK", output("pkg-config", &["--modversion", "libdpdk"])),
            ("rustc", output("rustc", &["--version"])),
            ("load at the start", read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")),
        ])
    }

    pub(crate) fn add(&mut self, name: &'static str, value: String) {
        self.0.push((name, value));
    }

    pub(crate) fn lines(&self, prefix: &str) -> String {
        self.0.iter().map(|(name, value)| format!("{prefix}{name}: {value}\n")).collect()
    }
}

/// The CPU that measures, and whether the rest of the machine has another: the last one.
pub(crate) fn measuring_cpu() -> (u32, String) {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    let cpu = cores - 1;
    let text = if cpu > 0 { format!("CPU {cpu}, one thread") } else { "the only CPU".to_owned() };
    (cpu, text)
}

fn commit() -> String {
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"]);
    let is_changed = !output("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
    if is_changed { format!("{commit}, with changes") } else { commit }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// What a program prints; nothing when it is not there or fails.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
