//! Any command lines of iptables do what they say or nothing, and what they made is saved and restored to the same.
//!
//! Each line of the input is a command line, of `ip6tables` where it begins with a 6; its words are those of a restore file.

use lb_core::rule::text;

use crate::rules::{IPV4, IPV6, InProcess};

pub(crate) fn run(data: &[u8]) {
    let input = String::from_utf8_lossy(data);
    let mut keeper = InProcess::new();
    for line in input.lines().take(100) {
        let (programs, line) = line.strip_prefix('6').map_or((IPV4, line), |line| (IPV6, line));
        let Ok(words) = text::split(line) else { continue };
        let before = programs.save(&mut keeper);
        let done = programs.run(&words, &mut keeper);
        if done.code != 0 {
            assert_eq!(programs.save(&mut keeper), before, "{words:?} failed and did something: {done:?}");
        }
    }
    for programs in [IPV4, IPV6] {
        programs.check_round_trip(&mut keeper);
    }
}
