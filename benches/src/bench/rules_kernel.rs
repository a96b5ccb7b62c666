//! What the same rules cost the kernel's iptables: connections that begin, in a network namespace of their own.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use lb_benches::traffic::ruleset;

use super::{Context, Found, is_installed, text};
use crate::results::{NS, RATIO_TO_10_RULES, Row};

/// The kernel's iptables, without nf_tables.
const PEER: &str = "iptables-legacy-restore";
/// As `ruled-new-udp` has them, and none: what sending and receiving costs by itself.
const COUNTS: [u32; 4] = [0, 10, 1_000, 10_000];

pub(super) fn run(context: &Context) -> Result<Found> {
    if !is_installed(PEER) {
        return Ok(Found::left_out("rules-kernel", &format!("{PEER} is not installed")));
    }
    let mut costs = COUNTS.map(|_| (Vec::new(), Vec::new()));
    for _ in context.rounds(context.choose(2, 5), 1) {
        let mut of_ten = None;
        for (count, (ns, to_ten)) in COUNTS.into_iter().zip(&mut costs) {
            let Some(measured) = kernel(context, count)? else {
                return Ok(Found::left_out("rules-kernel", "namespaces or rules are not allowed here"));
            };
            let median = Row::new("", 0, NS, measured.clone()).median;
            ns.extend(measured);
            if count == 10 {
                of_ten = Some(median);
            }
            to_ten.extend(of_ten.map(|ten| median / ten));
        }
    }
    let mut found = Found::default();
    for (rules, (ns, to_ten)) in COUNTS.into_iter().zip(costs) {
        found.rows.push(Row { rules, ..Row::new("kernel-new-udp", 0, NS, ns) });
        if rules > 10 {
            let name = format!("kernel-new-udp {rules}");
            found.rows.push(Row { rules, ..Row::new(&name, 0, RATIO_TO_10_RULES, to_ten) });
        }
    }
    found.notes.push(format!(
        "kernel-new-udp: the peer of ruled-new-udp: the same rules by `{PEER}` in chain INPUT of a new network namespace, with a rule in OUTPUT that asks \
         `-m conntrack --ctstate NEW`, so that the kernel tracks as we do; UDP datagrams of 64-byte frames over the loopback interface, each of a connection \
         that begins, wall time on one CPU with a system call for each. With 0 rules there is no table at all: what is left is sending and receiving."
    ));
    Ok(found)
}

/// What a datagram costs the kernel with so many rules, in nanoseconds, run after run; `None`: it cannot be asked here.
fn kernel(context: &Context, count: u32) -> Result<Option<Vec<f64>>> {
    let file = context.scratch.join("kernels-rules");
    let lines: String = ruleset::lines(count).iter().map(|line| format!("-A INPUT {line}\n")).collect();
    let tracked = "-A OUTPUT -m conntrack --ctstate NEW -j ACCEPT";
    fs::write(&file, format!("*filter\n{lines}{tracked}\nCOMMIT\n"))?;
    let restored = if count == 0 { "true" } else { PEER };
    let (packets, runs) = context.choose(("5000", "2"), ("10000", "3"));
    let script = r#"set -e; ip link set lo up; "$0" "$1"; exec taskset -c "$2" "$3" kernel-new "$4" "$5""#;
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", script, restored, text(&file)?, &context.cpu.to_string()]);
    command.arg(std::env::current_exe()?).args([packets, runs]).stderr(Stdio::null());
    let output = command.output().context("unshare")?;
    Ok(serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success()))
}
