//! Goal: `ipset` prints and returns what the kernel's own does, byte by byte.
//!
//! Method: the recorded command lines are given in order to the command, with the daemon's API on a real socket; those of `iptables` that
//! stand between too, since rules name sets, but theirs is another test. What differs from one boot to the next is compared after sorting
//! the lines, without timeouts and `initval`.

mod recording;
mod support;

use lb_control::cli::client::Client;
use lb_control::cli::ipset::{self, Surroundings};
use lb_control::cli::iptables;
use lb_core::rule::names::Numeric;
use recording::Vector;
use support::Daemon;

fn normal(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text
        .lines()
        .map(|line| {
            let mut words: Vec<&str> = Vec::new();
            for word in line.split(' ') {
                let before = words.last().copied();
                words.push(match before {
                    Some("initval" | "timeout") => "…",
                    _ => word,
                });
            }
            let line = words.join(" ");
            match (line.find("<initval>"), line.find("</initval>")) {
                (Some(from), Some(to)) => line[..from].to_owned() + &line[to..],
                _ => match (line.find("<timeout>"), line.find("</timeout>")) {
                    (Some(from), Some(to)) => line[..from].to_owned() + &line[to..],
                    _ => line,
                },
            }
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn ipset_prints_and_returns_what_was_recorded() {
    let vectors: Vec<Vector> = recording::read(include_str!("oracle/iptables_ipset_cli.json"));
    let daemon = Daemon::start(Vec::new());
    let mut client = Client::new(&daemon.socket()).expect("a client");
    let (mut equal, mut different) = (0, Vec::new());
    for vector in &vectors {
        if vector.argv[0] != "ipset" {
            if vector.argv[0] == "iptables" {
                let (mut input, mut output, mut errors) = (&b""[..], Vec::new(), Vec::new());
                let mut around = iptables::Surroundings {
                    names: &Numeric,
                    input: &mut input,
                    output: &mut output,
                    errors: &mut errors,
                };
                iptables::run("iptables", &vector.argv[1..], &mut client, &mut around);
            }
            continue;
        }
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let stdin = vector.stdin.clone().unwrap_or_default();
        let mut input = stdin.as_bytes();
        let mut around = Surroundings { input: &mut input, output: &mut output, errors: &mut errors };
        let code = ipset::run(&vector.argv[1..], &mut client, &mut around);
        let mut output = String::from_utf8(output).expect("text");
        let errors = String::from_utf8(errors).expect("text");
        if vector.usage_text_follows_in.is_some() {
            output.truncate(vector.stdout.len());
        }
        let same_output = output == vector.stdout
            || !vector.stable_across_boots && normal(&output) == normal(&vector.stdout)
            // The seconds left of what lives for a few.
            || vector.stdout.contains(" timeout ") && normal(&output) == normal(&vector.stdout);
        if (code, &errors, same_output) == (vector.rc, &vector.stderr, true) {
            equal += 1;
        } else {
            different.push(format!(
                "{} {}\n  expected {} {:?} {:?}\n  got      {code} {errors:?} {output:?}",
                vector.n,
                vector.argv.join(" "),
                vector.rc,
                vector.stderr,
                vector.stdout
            ));
        }
    }
    println!("{equal} equal, {} different", different.len());
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert_eq!(equal, 205);
}
