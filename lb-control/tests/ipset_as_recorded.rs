//! Goal: `ipset` prints and returns what the kernel's own does, byte by byte.
//!
//! Method: the recorded command lines are given in order to the command, with the daemon's API on a real socket. Lines of `iptables` that
//! stand between are not given: where a set's fate hangs on a rule of theirs the line is named below. What differs from one boot to the
//! next is compared after sorting the lines, without timeouts and `initval`.

mod recording;
mod support;

use lb_control::cli::client::Client;
use lb_control::cli::ipset::{self, Surroundings};
use recording::Vector;
use support::Daemon;

/// Sets that rules of `iptables` name there: destroyed here, or listed with fewer references.
const OF_RULES: [usize; 2] = [409, 410];

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
    let (mut equal, mut different, mut excused) = (0, Vec::new(), 0);
    for vector in vectors.iter().filter(|vector| vector.argv[0] == "ipset") {
        if OF_RULES.contains(&vector.n) {
            // Not run: it would destroy what later lines list.
            excused += 1;
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
    println!("{equal} equal, {excused} of rules, {} different", different.len());
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert_eq!(equal, 203);
}
