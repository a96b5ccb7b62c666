//! Any lines of ipset do what they say or nothing, and the sets that they made are saved and restored to the same.
//!
//! Each line of the input is one of ipset's.

use lb_control::sets::{Format, IpSets, command};
use lb_core::time::Tick;

const NOW: Tick = Tick(1_000_000);
const SEED: u64 = 7;

pub(crate) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut sets = IpSets::new(SEED);
    // All lines together may be about so many elements as those of one request.
    sets.begin();
    for line in text.lines().take(100) {
        let before = saved(&sets);
        match sets.line(line, false, NOW) {
            Ok(_) => check(&mut sets, line),
            Err(refusal) => {
                assert!(matches!(refusal.code, 0..=2), "{line}: exit code {}", refusal.code);
                // A range is added and deleted one by one, up to the first that cannot be.
                let is_of_elements =
                    matches!(line.split_whitespace().next().and_then(command), Some("add" | "del"));
                assert!(
                    is_of_elements || saved(&sets) == before,
                    "{line} failed and did something: {refusal:?}"
                );
            }
        }
    }
    let lines = saved(&sets);
    let mut again = IpSets::new(SEED + 1);
    for line in lines.lines() {
        again.begin();
        if let Err(refusal) = again.line(line, false, NOW) {
            panic!("{line}: was saved and is refused: {refusal:?}\n{lines}");
        }
    }
    assert_eq!(saved(&again), lines);
}

/// What a line added is there.
fn check(sets: &mut IpSets, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [word, name, entry] = words[..] else { return };
    // Of a range a later address may have pushed out the first.
    if command(word) == Some("add") && !entry.contains(['-', '/', '"']) {
        let test = format!("test {name} {entry}");
        assert!(sets.line(&test, false, NOW).is_ok(), "{line}: is not there");
    }
}

fn saved(sets: &IpSets) -> String {
    sets.listing(None)
        .map_or_else(|refusal| panic!("{refusal:?}"), |all| all.text(Format::Save, false, true, NOW))
}
