//! Any command lines do what they say or nothing, and what they made is saved and restored to the same.
//!
//! Each line of the input is a command line; its words stand between blanks.

use crate::director::{InProcess, check_round_trip, ipvsadm, listing, model};

pub(crate) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut director = InProcess(model());
    for line in text.lines().take(100) {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let before = listing(&director.0);
        let done = ipvsadm(&words, "", &mut director);
        assert!(matches!(done.code, 0 | 1 | 2 | 255), "{words:?}: exit code {}", done.code);
        assert_eq!(done.code == 0, done.errors.is_empty(), "{words:?}: {done:?}");
        if done.code != 0 {
            assert_eq!(listing(&director.0), before, "{words:?} failed and did something: {done:?}");
        }
    }
    check_round_trip(&mut director);
}
