//! Goal: no input that was kept makes a target fail again, and a target that was broken by a change is seen at once.
//!
//! Method: the kept corpus goes through the targets, then what random changes make of it, for a moment: without the
//! fuzzer's view of the code, which `make fuzz` has. A failure names the input; one that was made up is written to a file.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use std::{fs, thread};

use lb_fuzz::targets::{TARGETS, Target};

/// For each target.
const SMOKE: Duration = Duration::from_secs(5);
const MAX_LEN: usize = 4096;

fn folder(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(of)
}

fn kept(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = folder("corpus").join(target.name);
    let mut inputs: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("readable").path())
        .map(|path| (path.clone(), fs::read(path).expect("readable")))
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{}: there is nothing to begin with", folder.display());
    inputs
}

/// Says which input it was, when a target panics.
struct Blame<'a>(&'a Target, &'a Path);

impl Drop for Blame<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("target {} fails with {}", self.0.name, self.1.display());
        }
    }
}

fn on_each(test: impl Fn(&Target) + Sync) {
    thread::scope(|scope| {
        for target in TARGETS {
            scope.spawn(|| test(target));
        }
    });
}

#[test]
fn the_kept_corpus_passes() {
    on_each(|target| {
        for (path, input) in kept(target) {
            let _blame = Blame(target, &path);
            (target.run)(&input);
        }
    });
}

#[test]
fn what_random_changes_make_of_the_kept_corpus_passes() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let seed =
        std::env::var("SEED").ok().map_or(now.as_nanos() as u64, |seed| seed.parse().expect("a number"));
    println!("SEED={seed}");
    on_each(|target| {
        let kept = kept(target);
        let find = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{seed}", target.name));
        let mut random = Random(seed | 1);
        let begun = Instant::now();
        while begun.elapsed() < SMOKE {
            let input = changed(&kept, &mut random);
            let caught = std::panic::catch_unwind(|| (target.run)(&input));
            if let Err(panic) = caught {
                fs::write(&find, &input).expect("writable");
                let _blame = Blame(target, &find);
                std::panic::resume_unwind(panic);
            }
        }
    });
}

/// xorshift64 (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `n`, which is not 0.
    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 16) as usize % n
    }
}

fn changed(kept: &[(PathBuf, Vec<u8>)], random: &mut Random) -> Vec<u8> {
    let mut input = kept[random.below(kept.len())].1.clone();
    for _ in 0..=random.below(6) {
        let at = random.below(input.len() + 1);
        let end = (at + random.below(32)).min(input.len());
        match random.below(5) {
            0 => drop(input.splice(at..end, (at..end).map(|_| random.next() as u8))),
            1 => drop(input.drain(at..end)),
            2 => drop(input.splice(at..at, input[at..end].to_vec())),
            3 if at < end => input[at] ^= 1 << random.below(8),
            _ => {
                let other = &kept[random.below(kept.len())].1;
                let from = random.below(other.len() + 1);
                let to = (from + random.below(256)).min(other.len());
                drop(input.splice(at..at, other[from..to].iter().copied()));
            }
        }
    }
    input.truncate(MAX_LEN);
    input
}

#[test]
fn every_target_has_its_file_its_row_and_its_corpus() {
    let names = |of: &str| -> Vec<String> {
        let entries = fs::read_dir(folder(of)).unwrap_or_else(|error| panic!("{of}: {error}"));
        let name = |path: PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
        let mut names: Vec<_> = entries.map(|entry| name(entry.expect("readable").path())).collect();
        names.retain(|name| name != "mod");
        names.sort();
        names
    };
    let mut rows: Vec<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    rows.sort();
    assert_eq!((names("src/targets"), names("corpus")), (rows.clone(), rows));
}
