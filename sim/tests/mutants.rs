//! Goal: the simulation finds a director that does one thing wrong, whichever it is.
//! Method: `mutants.toml` lists changes of the sources. A copy of the workspace gets them all, each behind a condition, and is
//! built once; the program then runs with each of them switched on, which must fail, and with none in each world in which one
//! was found, which must go well.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;

/// Worlds that each mutant is tried in until one finds it, and their steps.
const SEEDS: &str = "1..71";
const STEPS: &str = "3000";
/// A mutant that takes longer stands still, and that is found out too.
const PATIENCE: Duration = Duration::from_secs(240);
/// Tells the program which mutant is switched on, by its number in the list, from 1 on.
const SWITCH: &str = "LB_MUTANT";
const PROGRAM: &str = "mutants";
/// What the program is made of.
const PACKAGES: [&str; 4] = ["lb-core", "lb-dataplane", "lb-control", "sim"];

#[derive(Deserialize)]
struct List {
    mutant: Vec<Mutant>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    name: String,
    /// What goes wrong: for who reads the list.
    breaks: String,
    file: String,
    find: String,
    replace: String,
    /// The world that found it last, where that is a late one: it is tried first.
    seed: Option<u64>,
}

#[test]
fn every_mutant_is_found() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let list = fs::read_to_string(root.join("sim/mutants.toml")).unwrap();
    let List { mutant: mutants } = toml::from_str(&list).unwrap();
    assert!(mutants.len() >= 20 && mutants.iter().all(|mutant| !mutant.breaks.is_empty()));
    let program = build(root, &mutants);
    let (survivors, worlds) = (Mutex::new(Vec::new()), Mutex::new(BTreeSet::new()));
    // MUTANTS=begin looks for those alone whose names begin so.
    let begin = std::env::var("MUTANTS").unwrap_or_default();
    let is_wanted = |(_, mutant): &(usize, &Mutant)| mutant.name.starts_with(&begin);
    let numbered: Vec<(usize, &Mutant)> = (1..).zip(&mutants).filter(is_wanted).collect();
    on_all_cpus(&numbered, |(number, mutant)| match look_for(&program, *number, mutant.seed) {
        Verdict::Found { how, worlds: found } => {
            println!("{}: {how}", mutant.name);
            worlds.lock().unwrap().insert(found);
        }
        Verdict::Unseen => survivors.lock().unwrap().push(&mutant.name),
    });
    let worlds: Vec<String> = worlds.into_inner().unwrap().into_iter().collect();
    on_all_cpus(&worlds, |worlds| {
        if let Verdict::Found { how, .. } = run(&program, 0, worlds) {
            panic!("without any mutant: {how}");
        }
    });
    let survivors = survivors.into_inner().unwrap();
    assert!(survivors.is_empty(), "no invariant says anything about {survivors:?}");
}

/// Does `what` with each of `all`, as many at a time as there are CPUs.
fn on_all_cpus<T: Sync>(all: &[T], what: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    what(one);
                }
            });
        }
    });
}

enum Verdict {
    /// How, and in which worlds (all, if that is not known).
    Found {
        how: String,
        worlds: String,
    },
    Unseen,
}

fn look_for(program: &Path, number: usize, seed: Option<u64>) -> Verdict {
    match seed.map(|seed| run(program, number, &only(seed))) {
        Some(found @ Verdict::Found { .. }) => found,
        Some(Verdict::Unseen) | None => run(program, number, SEEDS),
    }
}

/// One world, as `--seeds` takes several.
fn only(seed: u64) -> String {
    format!("{seed}..{}", seed + 1)
}

/// Runs the program with one mutant, or with none (0), in some worlds: FROM..TO.
fn run(program: &Path, number: usize, seeds: &str) -> Verdict {
    let mut child = Command::new(program)
        .args(["--frames", "--seeds", seeds, "--steps", STEPS])
        .env(SWITCH, number.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    // It writes a line for each world, so little that the pipe holds it all.
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if start.elapsed() > PATIENCE => break None,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let Some(status) = status else {
        child.kill().unwrap();
        child.wait().unwrap();
        return Verdict::Found { how: format!("it stands still for {PATIENCE:?}"), worlds: seeds.to_owned() };
    };
    let output = std::io::read_to_string(child.stdout.take().unwrap()).unwrap();
    match status.code() {
        Some(0) => Verdict::Unseen,
        Some(1) => {
            let line = |start: &str| output.lines().find(|line| line.starts_with(start)).unwrap_or_default();
            let (what, place) = (line("invariant "), line("seed "));
            let seed = place.split([' ', ',']).nth(1).and_then(|seed| seed.parse::<u64>().ok());
            let worlds = seed.map_or(seeds.to_owned(), only);
            Verdict::Found { how: format!("{what} ({place})"), worlds }
        }
        _ => Verdict::Found { how: format!("{status}"), worlds: seeds.to_owned() },
    }
}

/// Makes the program, in a workspace beside the ordinary one and with what that has compiled already.
fn build(root: &Path, mutants: &[Mutant]) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let copy = target.join("tmp/mutants");
    let mut files = BTreeMap::new();
    let members = manifest(root, &mut files);
    for member in members.iter().map(String::as_str).chain(["docs", "configs"]) {
        collect(root, Path::new(member), &mut files);
    }
    mutate(mutants, &mut files);
    write(&copy, &files);
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--quiet", "--locked", "--workspace", "--bin", PROGRAM, "--profile", "test"])
        .current_dir(&copy)
        .env("CARGO_TARGET_DIR", target);
    // Nothing of the package that runs this test may be taken for one that is built.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_BIN_") || text == "CARGO_MANIFEST_DIR" {
            cargo.env_remove(&name);
        }
    }
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    target.join("debug").join(PROGRAM)
}

/// The workspace's manifest and lock file. Returns its members but for the binding to DPDK, which is taken from where it is.
fn manifest(root: &Path, files: &mut BTreeMap<PathBuf, String>) -> Vec<String> {
    const BINDING: &str = "lb-dataplane/dpdk-sys";
    let mut manifest: toml::Table =
        toml::from_str(&fs::read_to_string(root.join("Cargo.toml")).unwrap()).unwrap();
    let workspace = manifest["workspace"].as_table_mut().unwrap();
    let members = workspace["members"].as_array_mut().unwrap();
    members.retain(|member| member.as_str() != Some(BINDING));
    let names = members.iter().map(|member| member.as_str().unwrap().to_owned()).collect();
    let binding = root.join(BINDING).to_str().unwrap().to_owned();
    workspace["dependencies"]["dpdk-sys"]["path"] = binding.into();
    // Cargo takes a package for that of the same name in another workspace when all settings are the same: no other has so many units.
    let own = toml::toml! {
        debug = false
        codegen-units = 15
    };
    let profile = manifest["profile"]["test"].as_table_mut().unwrap();
    let profiles = table_in(profile, "package");
    PACKAGES.iter().for_each(|name| table_in(profiles, name).extend(own.clone()));
    files.insert("Cargo.toml".into(), manifest.to_string());
    files.insert("Cargo.lock".into(), fs::read_to_string(root.join("Cargo.lock")).unwrap());
    names
}

/// That of a name, made if it is not there.
fn table_in<'a>(table: &'a mut toml::Table, name: &str) -> &'a mut toml::Table {
    table.entry(name).or_insert_with(|| toml::Table::new().into()).as_table_mut().unwrap()
}

/// All text files below a folder.
fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(root.join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = folder.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            if path != Path::new("lb-dataplane/dpdk-sys") {
                collect(root, &path, files);
            }
        } else if let Ok(text) = fs::read_to_string(entry.path()) {
            files.insert(path, text);
        }
    }
}

/// Puts all mutants into the sources.
fn mutate(mutants: &[Mutant], files: &mut BTreeMap<PathBuf, String>) {
    // By file, from its end on, so that places found before stay where they are.
    let mut places: Vec<(&Path, usize, usize)> = Vec::new();
    for (index, Mutant { name, file, find, .. }) in mutants.iter().enumerate() {
        let text = files.get(Path::new(file)).unwrap_or_else(|| panic!("mutant {name}: there is no {file}"));
        let found: Vec<_> = text.match_indices(find.as_str()).map(|(at, _)| at).collect();
        let &[at] = found.as_slice() else {
            panic!("mutant {name} no longer applies: {file} has its text {} times", found.len());
        };
        places.push((Path::new(file), at, index));
    }
    places.sort_unstable_by(|a, b| b.cmp(a));
    let mut last: Option<(&Path, usize)> = None;
    for (file, at, index) in places {
        let Mutant { name, find, replace, .. } = &mutants[index];
        let end = at + find.len();
        assert!(last.is_none_or(|(of, from)| of != file || end <= from), "mutant {name} overlaps another");
        last = Some((file, at));
        let krate = if file.starts_with("lb-core") { "crate" } else { "lb_core" };
        let choice = format!("if {krate}::mutant::is({}) {{ {replace} }} else {{ {find} }}", index + 1);
        let is_statement = find.ends_with([';', '}']);
        files
            .get_mut(file)
            .unwrap()
            .replace_range(at..end, &if is_statement { choice } else { format!("({choice})") });
    }
    let switch = format!(
        "use std::sync::LazyLock;
        static ON: LazyLock<usize> = LazyLock::new(|| std::env::var(\"{SWITCH}\").unwrap().parse().unwrap());
        pub fn is(number: usize) -> bool {{ *ON == number }}"
    );
    files.insert("lb-core/src/mutant.rs".into(), switch);
    files.get_mut(Path::new("lb-core/src/lib.rs")).unwrap().push_str("\npub mod mutant;\n");
    // A name of its own, so that `target` keeps the ordinary program.
    let program = format!("\n[[bin]]\nname = \"{PROGRAM}\"\npath = \"src/main.rs\"\n");
    files.get_mut(Path::new("sim/Cargo.toml")).unwrap().push_str(&program);
}

/// Writes what differs from what is there, so that a second run compiles only what changed.
fn write(copy: &Path, files: &BTreeMap<PathBuf, String>) {
    for (path, text) in files {
        let path = copy.join(path);
        if fs::read_to_string(&path).is_ok_and(|old| old == *text) {
            continue;
        }
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}
