//! Any file can be given to `ipvsadm -R`: what it makes is the same as its lines make one by one, and is saved
//! and restored to the same.

use crate::director::{InProcess, check_round_trip, ipvsadm, listing, model};

pub(crate) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut director = InProcess(model());
    let done = ipvsadm(&["-R".to_owned()], &text, &mut director);
    assert!(matches!(done.code, 0 | 1 | 2 | 255), "exit code {}", done.code);
    assert!(done.code == 0 || !done.errors.is_empty(), "it failed without a word");
    check_round_trip(&mut director);

    // A restore of which every line is right ends where its lines end one by one.
    if done.errors.is_empty() {
        let mut one_by_one = InProcess(model());
        for line in text.lines() {
            let words: Vec<String> =
                line.split_ascii_whitespace().filter(|&word| word != "ipvsadm").map(str::to_owned).collect();
            if !words.is_empty() {
                let alone = ipvsadm(&words, "", &mut one_by_one);
                assert_eq!((alone.code, alone.errors.as_str()), (0, ""), "{words:?}");
                // Help ends a restore.
                let option = words.iter().find(|word| word.len() > 1 && word.starts_with('-'));
                let is_help = |word: &String| {
                    ["-h", "-v", "--help", "--version"].iter().any(|help| word.starts_with(help))
                };
                if option.is_some_and(is_help) {
                    break;
                }
            }
        }
        assert_eq!(listing(&director.0), listing(&one_by_one.0));
    }
}
