use std::os::unix::fs::PermissionsExt;

use lb_core::flow::{FlowTable, memory_needed};
use lb_core::time::Tick;

use super::*;
use crate::cpu::CpuSet;

/// A name of its own on /dev/shm, whose files go when this is dropped.
struct Name(String);

impl Name {
    fn new(test: &str) -> Name {
        Name(format!("lbd-test-{test}-{}", std::process::id()))
    }

    fn wanted(&self) -> FlowMemory {
        FlowMemory::Named(self.0.clone())
    }

    fn path(&self) -> PathBuf {
        Path::new("/dev/shm").join(&self.0)
    }

    fn open(&self) -> Keep {
        Keep::open(&self.wanted(), false).unwrap().0.unwrap()
    }

    /// Opens and makes the file for `workers` workers with empty tables.
    fn serve(&self, workers: usize) -> (Keep, Legacy, Vec<FlowTable>) {
        let mut keep = self.open();
        let (regions, legacy) = keep.create(&vec![cpu(); workers], memory_needed(100, 10)).unwrap();
        let table = |region| FlowTable::new(region, 100, 10, 7, Tick(0));
        (keep, legacy, regions.into_iter().map(table).collect())
    }
}

/// One that this process may use.
fn cpu() -> u32 {
    CpuSet::usable().unwrap().iter().next().unwrap()
}

impl Drop for Name {
    fn drop(&mut self) {
        for end in ["", ".new"] {
            let _ = fs::remove_file(format!("{}{end}", self.path().display()));
        }
    }
}

#[test]
fn the_next_process_finds_what_the_last_one_that_served_left() {
    let name = Name::new("next");
    let (mut first, legacy, tables) = name.serve(2);
    assert!(legacy.is_empty());
    first.commit().unwrap();
    drop((first, tables));
    // This one is killed before it serves: dropping it in order is less than that.
    let (second, legacy, tables) = name.serve(3);
    assert_eq!(legacy.salvages().len(), 2);
    std::mem::forget(second);
    drop((legacy, tables));
    let left = OpenOptions::new().read(true).open(name.path()).unwrap();
    assert_eq!(left.metadata().unwrap().len() as usize, 3 * HUGE_PAGE, "the first one's");
}

#[test]
fn a_start_that_fails_leaves_what_was_there() {
    let name = Name::new("fails");
    drop(name.serve(1));
    assert!(!name.path().exists(), "nothing was there");
    let (mut keep, _, tables) = name.serve(1);
    keep.commit().unwrap();
    drop((keep, tables));
    drop(name.serve(2));
    assert_eq!(fs::metadata(name.path()).unwrap().len() as usize, 2 * HUGE_PAGE);
    assert!(!PathBuf::from(format!("{}.new", name.path().display())).exists());
}

#[test]
fn a_second_process_on_the_same_file_is_refused_before_and_after_the_first_one_serves() {
    let name = Name::new("second");
    let refusal = || Keep::open(&name.wanted(), false).err().unwrap().to_string();
    let line = format!("flow memory {}: another lbd uses it", name.path().display());
    let (mut keep, _, tables) = name.serve(1);
    assert_eq!(refusal(), line);
    keep.commit().unwrap();
    assert_eq!(refusal(), line);
    assert!(Keep::existing(&name.wanted()).is_err());
    drop(keep);
    assert_eq!(refusal(), line, "a mapping holds the lock too");
    drop(tables);
    name.open();
}

#[test]
fn a_file_that_is_not_right_is_refused_with_a_reason() {
    let reason = |change: &dyn Fn(&File)| {
        let name = Name::new("damaged");
        let (mut keep, _, tables) = name.serve(1);
        keep.commit().unwrap();
        drop((keep, tables));
        change(&OpenOptions::new().write(true).open(name.path()).unwrap());
        let (keep, legacy, _tables) = name.serve(1);
        assert!(legacy.salvages().is_empty());
        let line = keep.notices.concat();
        let begin = format!("flow memory {}", name.path().display());
        assert!(line.starts_with(&begin) && line.contains("is not carried over: "), "{line}");
        line.rsplit("is not carried over: ").next().unwrap().to_owned()
    };
    let write = |bytes: &'static [u8], at: u64| move |file: &File| file.write_all_at(bytes, at).unwrap();
    assert_eq!(reason(&write(b"F", 0)), "it does not begin as flow memory does");
    assert_eq!(reason(&write(b"version 7", 19)), "its version is 7, this program's is 1");
    assert_eq!(reason(&write(b"0", 40)), "its header is damaged");
    assert_eq!(reason(&write(&[0xff; 5000], 0)), "it does not begin as flow memory does");
    assert_eq!(reason(&write(b"x", HUGE_PAGE as u64 + 1)), "it is no flow memory");
    assert_eq!(reason(&|file| file.set_len(1 << 45).unwrap()), "it has holes");
    let short = reason(&|file| file.set_len(HUGE_PAGE as u64).unwrap());
    assert_eq!(short, "it has 2097152 bytes, its header says 4194304");
}

#[test]
fn what_somebody_else_put_there_is_neither_used_nor_touched() {
    let name = Name::new("foreign");
    let target = Name::new("target");
    fs::write(target.path(), "theirs").unwrap();
    let told = || {
        let forgotten = Keep::existing(&name.wanted()).err().unwrap().to_string();
        assert!(forgotten.ends_with(FOREIGN), "{forgotten}");
        let (keep, notices) = Keep::open(&name.wanted(), false).unwrap();
        assert!(keep.is_none_or(|keep| keep.path() != name.path()), "it is used");
        notices.concat()
    };
    let line = format!("flow memory {}: {FOREIGN}", name.path().display());
    std::os::unix::fs::symlink(target.path(), name.path()).unwrap();
    assert!(told().starts_with(&line), "a link");
    fs::remove_file(target.path()).unwrap();
    assert!(told().starts_with(&line), "a link to nothing");
    assert!(!target.path().exists());
    fs::remove_file(name.path()).unwrap();
    fs::write(name.path(), "").unwrap();
    fs::set_permissions(name.path(), fs::Permissions::from_mode(0o666)).unwrap();
    // Its lock does not keep lbd from starting.
    let theirs = File::open(name.path()).unwrap();
    theirs.lock().unwrap();
    assert!(told().starts_with(&line), "everybody can write it");
}

#[test]
fn a_process_that_was_killed_while_it_started_leaves_no_second_file() {
    let name = Name::new("unfinished");
    let finds: [fn(&Name); 2] =
        [|name| drop(name.open()), |name| drop(Keep::existing(&name.wanted()).unwrap())];
    for find in finds {
        let (mut keep, _, tables) = name.serve(1);
        keep.commit().unwrap();
        drop((keep, tables));
        fs::write(unfinished(&name.path()), "half").unwrap();
        find(&name);
        assert!(!unfinished(&name.path()).exists());
        assert!(name.path().exists());
    }
}

#[test]
fn a_file_for_which_there_is_no_room_leaves_the_old_one_as_it_was() {
    let name = Name::new("none");
    let (mut keep, _, tables) = name.serve(1);
    keep.commit().unwrap();
    drop((keep, tables));
    let before = fs::read(name.path()).unwrap();
    let mut keep = name.open();
    assert!(keep.create(&[cpu()], 1 << 46).is_err());
    assert_eq!(keep.take_legacy().salvages().len(), 1, "for who serves without a file");
    drop(keep);
    assert!(fs::read(name.path()).unwrap() == before);
}

#[test]
fn flow_memory_on_a_disk_is_refused() {
    let refused = |path: &str| Keep::open(&FlowMemory::File(path.into()), false).err().unwrap().to_string();
    assert_eq!(refused("/proc/lb"), "flow memory /proc/lb: it is on no tmpfs and no hugetlbfs");
    assert_eq!(refused("/nosuch/lb"), "flow memory /nosuch/lb: there is no such directory");
    assert!(Keep::open(&FlowMemory::Forgotten, false).unwrap().0.is_none());
}

#[test]
fn where_two_files_have_no_room_the_old_one_is_read_into_this_process() {
    let name = Name::new("room");
    let (mut keep, _, tables) = name.serve(1);
    keep.commit().unwrap();
    drop((keep, tables));
    let mut keep = name.open();
    for found in &mut keep.found {
        found.read(&mut Vec::new());
        found.copy().unwrap();
    }
    assert_eq!(fs::metadata(name.path()).unwrap().len(), 0, "its memory is free");
    assert_eq!(keep.take_legacy().salvages().len(), 1);
}

#[test]
fn a_start_that_fails_after_it_read_the_old_file_into_itself_puts_it_back() {
    let name = Name::new("back");
    let (mut keep, _, tables) = name.serve(1);
    keep.commit().unwrap();
    drop((keep, tables));
    let before = fs::read(name.path()).unwrap();
    for has_file in [true, false] {
        let mut keep = name.open();
        for found in &mut keep.found {
            found.read(&mut Vec::new());
            found.copy().unwrap();
        }
        if has_file {
            keep.create_file(&[cpu()], HUGE_PAGE).unwrap();
        } else {
            keep.forgo();
        }
        let legacy = keep.take_legacy();
        drop(keep);
        assert_eq!(legacy.salvages().len(), 1);
        assert!(fs::read(name.path()).unwrap() == before);
        assert!(!unfinished(&name.path()).exists());
    }
}

#[test]
fn where_whoever_serves_has_other_memory_no_file_is_left() {
    let name = Name::new("forgone");
    let (mut keep, _, tables) = name.serve(1);
    keep.commit().unwrap();
    drop((keep, tables));
    let mut keep = name.open();
    keep.forgo();
    assert!(name.path().exists());
    keep.commit().unwrap();
    assert!(!name.path().exists());
}
