//! IP sets in the daemon: lines done, tables published when they must be, the file by which the sets outlive the process.
//!
//! ```text
//! lbd-sets 2 boot=<id> at=<ticks since the boot> crc32=<of what follows, hex>⏎
//! <lines of ipset save>
//! ```
//!
//! The lines say what was left of an element's time when they were written: what passed since is taken off when they are read.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use lb_core::set::{MAX_TIMEOUT, SetId, Wishes};
use lb_core::tables::{MarkRule, Marks};
use lb_core::time::Tick;
use tracing::{info, warn};

use super::{Control, file};
use crate::api::types::{SetFailure, SetsReply};
use crate::config::MarkSets;
use crate::model::Change;
use crate::sets::{self, IpSets, Listing, Refusal, SetView};

const MAGIC: &str = "lbd-sets 2";
/// How many times as long as it took to write them the sets are not written again.
const REST: u32 = 10;
const NOT_SAVED: &str = "cannot save the sets: what was changed will be missing after the next start";
/// Who names sets, for [`IpSets::refer`].
const MARKS: &str = "marks";

/// The file of the sets.
pub(super) struct SetsFile {
    path: PathBuf,
    /// When it was begun to be written last.
    begun: Option<Instant>,
    writing: Arc<Writing>,
}

/// What the thread that writes the file, and the control task, know of it.
#[derive(Default)]
struct Writing {
    is_busy: AtomicBool,
    /// For how long it is not to be written again since it was begun, milliseconds.
    rest: AtomicU64,
    /// What is in the file is not what it should be.
    is_failing: AtomicBool,
    /// Times that it could not be written.
    failed: AtomicU64,
}

impl SetsFile {
    /// Beside the model's.
    pub(super) fn beside(model: &Path) -> SetsFile {
        SetsFile { path: beside(model), begun: None, writing: Arc::default() }
    }

    /// Sets that packets change all the time are not written all the time.
    fn is_resting(&self) -> bool {
        let rest = Duration::from_millis(self.writing.rest.load(Relaxed));
        self.begun.is_some_and(|begun| begun.elapsed() < rest)
    }

    /// Times that the sets could not be saved.
    pub(super) fn failed(&self) -> u64 {
        self.writing.failed.load(Relaxed)
    }
}

impl Writing {
    /// Saves the sets; what does not work is said when it begins, and when it is over.
    fn save(&self, path: &Path, listing: &Listing) {
        let begun = Instant::now();
        match save(path, listing) {
            Ok(()) => {
                self.rest.store((begun.elapsed() * REST).as_millis() as u64, Relaxed);
                if self.is_failing.swap(false, Relaxed) {
                    info!(file = %path.display(), "the sets are saved again");
                }
            }
            Err(error) => self.fail(path, &error),
        }
    }

    fn fail(&self, path: &Path, error: &std::io::Error) {
        self.rest.store(file::RETRY.as_millis() as u64, Relaxed);
        self.failed.fetch_add(1, Relaxed);
        if !self.is_failing.swap(true, Relaxed) {
            warn!(file = %path.display(), %error, "{NOT_SAVED}");
        }
    }
}

fn beside(model: &Path) -> PathBuf {
    file::with_ending(model, file::SETS)
}

/// The sets of the run before, or none.
pub(super) fn first(model: Option<&Path>) -> IpSets {
    let mut sets = IpSets::new(std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0_u64));
    let Some(path) = model.map(beside) else { return sets };
    let bytes = match file::read(&path) {
        Ok(None) => return sets,
        Ok(Some(bytes)) => Ok(bytes),
        Err(why) => Err(why.to_string()),
    };
    match bytes.and_then(|bytes| restore(&mut sets, &bytes)) {
        Ok(()) => {
            info!(file = %path.display(), sets = sets.views().len(), "goes on with the sets of the run before")
        }
        Err(why) => warn!(file = %path.display(), why, "sets of the run before are missing"),
    }
    sets.take_dirty();
    sets
}

fn restore(sets: &mut IpSets, bytes: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("it is damaged: {error}"))?;
    let (head, lines) = text.split_once('\n').ok_or("it has no first line")?;
    let boot = file::boot_id().map_err(|error| error.to_string())?;
    let mut words = head.strip_prefix(MAGIC).ok_or("it is no file of sets")?.split_whitespace();
    if words.next().and_then(|word| word.strip_prefix("boot=")) != Some(&boot) {
        return Err("it is from before the machine's last boot".to_owned());
    }
    let at = words.next().and_then(|word| word.strip_prefix("at=")?.parse().ok());
    let passed = sets::since_boot().saturating_sub(at.ok_or("it does not say when it was written")?);
    let checksum = format!("crc32={:08x}", crc32fast::hash(lines.as_bytes()));
    if words.next() != Some(&checksum) {
        return Err("it is damaged: its checksum".to_owned());
    }
    // No time that an element has is longer than this.
    let passed = passed.min(u64::from((MAX_TIMEOUT + 1) * Tick::PER_SECOND)) as u32;
    let now = sets::now();
    let then = Tick(now.0.wrapping_sub(passed));
    for line in lines.lines() {
        sets.begin();
        sets.line(line, true, then).map_err(|refusal| format!("{line}: {}", refusal.message))?;
    }
    sets.sweep_all(now);
    Ok(())
}

fn save(path: &Path, listing: &Listing) -> std::io::Result<()> {
    let at = sets::since_boot();
    let lines = listing.all(sets::tick(at));
    let (boot, checksum) = (file::boot_id()?, crc32fast::hash(lines.as_bytes()));
    let head = format!("{MAGIC} boot={boot} at={at} crc32={checksum:08x}\n");
    file::replace(path, &[head.as_bytes(), lines.as_bytes()].concat())
}

/// The rules for marks with the ids of the sets that they name. A rule with a set that is not there matches nothing: it is left out.
pub(super) fn marks(sets: &mut IpSets, marks: &Marks, named: &[MarkSets]) -> Marks {
    let mut references: Vec<SetId> = Vec::new();
    let mut rules = Vec::new();
    for (rule, named) in marks.0.iter().zip(named) {
        let found = named.each_ref().map(|name| name.as_ref().map(|name| sets.id(name)));
        references.extend(found.iter().copied().flatten().flatten());
        if found.contains(&Some(None)) {
            continue;
        }
        let [source_set, destination_set] = found.map(Option::flatten);
        rules.push(MarkRule { source_set, destination_set, ..rule.clone() });
    }
    sets.refer(MARKS, references);
    Marks(rules)
}

/// Of a line that adds to a set, or deletes from it: the command and the set.
fn set_of(line: &str) -> Option<(&'static str, &str)> {
    let mut words = line.split_ascii_whitespace();
    let command = sets::command(words.next()?).filter(|command| matches!(*command, "add" | "del"))?;
    Some((command, words.next()?))
}

/// A line with a command.
fn is_done(line: &str) -> bool {
    !(line.is_empty() || line.starts_with('#') || line == "COMMIT")
}

impl Control {
    /// Does lines of `ipset`, one after the other, up to the first that cannot be done; what was done stays.
    pub fn set_lines(&mut self, text: &str, exist: bool) -> SetsReply {
        let mut reply = SetsReply::default();
        let now = sets::now();
        self.sets.begin();
        let mut lines = text.lines().map(str::trim).enumerate();
        // Up to here they were read.
        let mut read = 0;
        loop {
            let rest = lines.clone();
            let Some((index, line)) = lines.next() else { break };
            // ipset reads what is for one set before it does any of it.
            let of_line = if index < read { None } else { set_of(line) };
            if of_line.is_some() {
                let mut goes_on = true;
                // The line behind them is read before they are done.
                let mut all = rest
                    .filter(|(_, line)| is_done(line))
                    .take_while(|(_, line)| std::mem::replace(&mut goes_on, set_of(line) == of_line));
                let bad = all.find_map(|(index, line)| {
                    if set_of(line) == of_line {
                        read = index + 1;
                    }
                    Some((index, self.sets.check(line).err()?))
                });
                if let Some((index, Refusal { code, message })) = bad {
                    reply.failed = Some(SetFailure { line: index + 1, code, message });
                    break;
                }
            }
            if !is_done(line) {
                continue;
            }
            match self.sets.line(line, exist, now) {
                Ok(said) => reply.said.extend(said),
                Err(Refusal { code, message }) => {
                    reply.failed = Some(SetFailure { line: index + 1, code, message });
                    break;
                }
            }
            // The references of rules follow what the sets are called.
            if self.sets.take_other_names() {
                let marks = marks(&mut self.sets, &self.config.marks, &self.config.mark_sets);
                self.compiler.set_marks(marks);
            }
        }
        self.publish_sets();
        reply
    }

    fn publish_sets(&mut self) {
        if let Some(sets) = self.sets.take_change() {
            self.compiler.set_sets(sets);
            self.settle(&Change { publish: true, ..Change::default() });
        }
    }

    /// Does what workers left to be done to sets.
    pub(super) fn grant_wishes(&mut self) {
        if self.sets.wishes().are_there() {
            self.sets.grant_wishes(sets::now());
            self.publish_sets();
        }
    }

    /// All sets, or one, to be listed.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn set_listing(&self, name: Option<&str>) -> Result<Listing, Refusal> {
        self.sets.listing(name)
    }

    pub fn set_views(&self) -> Vec<SetView> {
        self.sets.views()
    }

    /// What workers left to be done, counted.
    pub fn set_wishes(&self) -> &Wishes {
        self.sets.wishes()
    }

    /// Forgets elements whose time is over, and has the sets written when they changed.
    pub(super) fn look_after_sets(&mut self) {
        self.sets.sweep(sets::now());
        self.publish_sets();
        let Some(file) = &mut self.sets_file else { return };
        let is_failing = file.writing.is_failing.load(Relaxed);
        if file.writing.is_busy.load(Relaxed) || file.is_resting() || !(self.sets.take_dirty() | is_failing) {
            return;
        }
        let Ok(listing) = self.sets.listing(None) else { return };
        file.writing.is_busy.store(true, Relaxed);
        file.begun = Some(Instant::now());
        let (path, writing) = (file.path.clone(), file.writing.clone());
        let write = move || {
            writing.save(&path, &listing);
            writing.is_busy.store(false, Relaxed);
        };
        if let Err(error) = std::thread::Builder::new().name("sets".to_owned()).spawn(write) {
            file.writing.is_busy.store(false, Relaxed);
            file.writing.fail(&file.path, &error);
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.keep_counts();
        let Some(file) = &self.sets_file else { return };
        while file.writing.is_busy.load(Relaxed) {
            std::thread::yield_now();
        }
        if (self.sets.take_dirty() | file.writing.is_failing.load(Relaxed))
            && let Ok(listing) = self.sets.listing(None)
        {
            file.writing.save(&file.path, &listing);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::{Duration, Instant};

    use lb_core::flow::Tuple;
    use lb_core::set::{Adding, Facts, SetId, Side};
    use lb_core::tables::Protocol;
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use crate::api::rules::{RuleBatch, RuleCommand, RuleCounts, RuleError, RuleFamily, TableChange};
    use crate::daemon::{Control, fake};

    const RULE: &str = "[[mark]]\nmark = 7\nsource_set = \"clients\"\n";

    fn mark(control: &Control, source: &str) -> Option<u32> {
        let source: IpAddr = source.parse().expect("an address");
        let packet = Tuple { src: source, dst: source, sport: 1, dport: 2, protocol: Protocol::TCP };
        let tables = control.tables();
        tables.marks.mark(&packet, &tables.sets, crate::sets::now())
    }

    #[test]
    fn a_set_gives_marks_as_soon_as_it_holds_the_client_and_without_new_tables() {
        let (mut control, plane, _) = fake::start_from(RULE, None);
        assert_eq!(mark(&control, "192.0.2.1"), None);
        let reply = control.set_lines("create clients hash:net\nadd clients 192.0.2.0/24\n", false);
        assert_eq!(reply.failed, None);
        assert_eq!((mark(&control, "192.0.2.1"), mark(&control, "192.0.3.1")), (Some(7), None));
        let publications = plane.publications();
        assert_eq!(control.set_lines("add clients 192.0.3.1", false).failed, None);
        assert_eq!((mark(&control, "192.0.3.1"), plane.publications()), (Some(7), publications));
        let failed = control.set_lines("destroy clients", false).failed.expect("it is named by a rule");
        assert_eq!(failed.message, "Set cannot be destroyed: it is in use by a kernel component");
        assert_eq!(control.set_views()[0].references, 1);
    }

    fn append(rule: &str) -> RuleBatch {
        let rule = rule.split(' ').map(str::to_owned).collect();
        let counts = RuleCounts::default();
        let commands = vec![RuleCommand::Append { chain: "FORWARD".to_owned(), rule, counts }];
        let tables = vec![TableChange { table: "filter".to_owned(), empty: false, commands }];
        RuleBatch { family: RuleFamily::Ipv4, tables, test: false }
    }

    fn flush() -> RuleBatch {
        let mut batch = append("");
        batch.tables[0].commands = vec![RuleCommand::Flush { chain: None }];
        batch
    }

    #[test]
    fn a_set_that_a_rule_names_stays_as_it_is_called_and_what_is_swapped_under_the_name_counts() {
        let (mut control, ..) = fake::start_from("", None);
        let refused = control.change_rules(&append("-m set --match-set a src -j DROP")).expect_err("no set");
        assert_eq!((refused.error, &*refused.message), (RuleError::NoSuchSet, "Set a doesn't exist."));
        let lines = "create a hash:ip\ncreate b hash:ip\nadd b 10.0.0.1\ncreate six hash:ip family inet6\n";
        assert_eq!(control.set_lines(lines, false).failed, None);
        let refused = control.change_rules(&append("-m set --match-set six src")).expect_err("other family");
        assert_eq!(refused.message, "The protocol family of set six is IPv6, which is not applicable.");
        control.change_rules(&append("-m set --match-set a src -j SET --add-set a src")).expect("done");
        let references = |control: &Control| {
            control.set_views().into_iter().map(|view| view.references).collect::<Vec<_>>()
        };
        assert_eq!(references(&control), [2, 0, 0]);
        let mut test = append("-m set --match-set b src");
        test.test = true;
        control.change_rules(&test).expect("it could be done");
        assert_eq!(references(&control), [2, 0, 0], "it was not done");
        for (line, why) in [
            ("destroy a", "Set cannot be destroyed: it is in use by a kernel component"),
            ("rename a c", "Set cannot be renamed: it is in use by another system"),
        ] {
            assert_eq!(control.set_lines(line, false).failed.expect(line).message, why);
        }
        assert_eq!(control.set_lines("swap a b", false).failed, None);
        let tables = control.tables();
        let id = control.rules.sets().next().expect("a set");
        assert_eq!(tables.sets.get(id).expect("a").store.len(), 1, "what was b is a");
        control.change_rules(&flush()).expect("done");
        assert_eq!(references(&control), [0, 0, 0]);
        assert_eq!(control.set_lines("destroy a", false).failed, None);
    }

    #[test]
    fn lines_in_a_row_for_one_set_are_read_before_any_of_them_is_done() {
        let (mut control, ..) = fake::start_from("", None);
        let lines = "create a hash:ip\ncreate b hash:ip\nadd a 10.0.0.1\nadd b 10.0.0.2\n\nadd a 10.0.0.3\n  add a 10.0.0.4 \n\
                     del a 10.0.0.1\n# and then\nadd a 10.0.0.5\nadd a 10.0.0.six\nadd a 10.0.0.7\n";
        let failed = control.set_lines(lines, false).failed.expect("a line that cannot be read");
        assert_eq!(failed.line, 11);
        let entries: Vec<usize> = control.set_views().into_iter().map(|view| view.entries).collect();
        assert_eq!(entries, [2, 1]);
        for unread in ["add a 10.0.0.8 timeout x", "foo", "create c hash:ip hashsize x"] {
            let lines = format!("add a 10.0.0.7\n{unread}\n");
            assert_eq!(control.set_lines(&lines, false).failed.expect(unread).line, 2, "{unread}");
            assert_eq!(control.set_views()[0].entries, 2, "{unread}");
        }
    }

    #[test]
    fn what_workers_leave_to_be_done_is_done_and_outlives_the_process_with_the_rules() {
        let directory = tempfile::tempdir().expect("a directory");
        let model = directory.path().join("model");
        let (mut control, ..) = fake::start_from("", Some(&model));
        let lines =
            "create seen hash:ip timeout 600 maxelem 200\ncreate full hash:ip maxelem 1\nadd full 10.0.0.1\n";
        assert_eq!(control.set_lines(lines, false).failed, None);
        control.change_rules(&append("-j SET --add-set seen src")).expect("done");
        control.change_rules(&append("-j SET --add-set full src")).expect("done");
        let now = crate::sets::now();
        let tables = control.tables().clone();
        let ids: Vec<SetId> = control.rules.sets().collect();
        let add = |n: u32| {
            let facts = Facts {
                source: Ipv4Addr::from(0x0a00_0100 + n).into(),
                destination: Ipv4Addr::UNSPECIFIED.into(),
                protocol: 17,
                ports: None,
                mark: 0,
                in_interface: "",
                out_interface: "",
                macs: Default::default(),
                len: 40,
            };
            for &id in &ids {
                tables.sets.add(id, &facts, &[Side::Source], now, Adding::default());
            }
        };
        let entries =
            |control: &Control| control.set_views().into_iter().map(|view| view.entries).collect::<Vec<_>>();
        (0..100).for_each(add);
        assert_eq!(entries(&control), [40, 1], "for more there is no room");
        control.grant_wishes();
        assert_eq!(entries(&control), [100, 1]);
        // Workers that have not adopted the new store leave what they add; more than the most there is no place for.
        (100..300).for_each(add);
        control.grant_wishes();
        assert_eq!(entries(&control), [200, 1]);
        drop(control);
        let (control, ..) = fake::start_from("", Some(&model));
        assert_eq!(entries(&control), [200, 1]);
        assert_eq!(control.set_views()[0].references, 1, "its rule is there too");
    }

    #[test]
    fn rules_whose_set_is_gone_are_left_out_and_the_others_are_there() {
        let directory = tempfile::tempdir().expect("a directory");
        let model = directory.path().join("model");
        let (mut control, ..) = fake::start_from("", Some(&model));
        assert_eq!(control.set_lines("create a hash:ip\n", false).failed, None);
        for rule in [
            "-s 10.0.0.1 -j DROP",
            "-m set --match-set a src -j DROP",
            "-j SET --add-set a src",
            "-s 10.0.0.2 -j DROP",
        ] {
            control.change_rules(&append(rule)).expect("done");
        }
        drop(control);
        std::fs::remove_file(super::beside(&model)).expect("it was written");
        let (control, ..) = fake::start_from("", Some(&model));
        let tables = control.rules(RuleFamily::Ipv4, None);
        let rules: Vec<_> =
            tables.iter().flat_map(|table| &table.chains).flat_map(|chain| &chain.rules).collect();
        let sources: Vec<&str> = rules.iter().map(|view| view.rule[1].as_str()).collect();
        assert_eq!(sources, ["10.0.0.1/32", "10.0.0.2/32"]);
    }

    #[test]
    fn nothing_is_left_of_what_is_forgotten() {
        let directory = tempfile::tempdir().expect("a directory");
        let model = directory.path().join("model");
        let (mut control, ..) = fake::start_from("", Some(&model));
        assert_eq!(control.set_lines("create a hash:ip\n", false).failed, None);
        drop(control);
        for name in ["model.new", "model.sets.new"] {
            std::fs::write(directory.path().join(name), "half of").expect("written");
        }
        let removed: Result<Vec<_>, _> = crate::daemon::forget(&model).collect();
        assert_eq!(removed.expect("removed").len(), 4);
        assert_eq!(std::fs::read_dir(directory.path()).expect("readable").count(), 0);
        assert_eq!(crate::daemon::forget(&model).count(), 0);
        std::fs::create_dir(&model).expect("made");
        let refused = crate::daemon::forget(&model).next().expect("it is there").expect_err("no file");
        assert!(refused.starts_with(&format!("cannot remove {}", model.display())), "{refused}");
    }

    #[test]
    fn sets_outlive_the_process() {
        let directory = tempfile::tempdir().expect("a directory");
        let model = directory.path().join("model");
        let (mut control, ..) = fake::start_from("", Some(&model));
        let lines = "create a hash:ip,port timeout 0 counters comment forceadd\n\
                     add a 10.0.0.1,udp:53 timeout 600 packets 5 bytes 70 comment \"two words\"\n\
                     create l list:set\nadd l a\n";
        assert_eq!(control.set_lines(lines, false).failed, None);
        let text = |control: &Control| control.set_listing(None).expect("all").all(crate::sets::now());
        let before = text(&control);
        assert!(before.contains("forceadd") && before.contains("comment \"two words\""), "{before}");
        drop(control);
        let (control, ..) = fake::start_from("", Some(&model));
        let after = text(&control);
        let without_times =
            |text: &str| text.replace("timeout 599", "timeout 600").replace("timeout 598", "timeout 600");
        assert_eq!(without_times(&after), without_times(&before));
    }

    /// As if the daemon had been away for so long.
    fn age(model: &std::path::Path, seconds: u64) {
        let path = super::beside(model);
        let text = std::fs::read_to_string(&path).expect("it was written");
        let at = text.split(' ').find_map(|word| word.strip_prefix("at=")).expect("when it was written");
        let before = at.parse::<u64>().expect("ticks") - seconds * u64::from(super::Tick::PER_SECOND);
        let aged = text.replacen(&format!("at={at} "), &format!("at={before} "), 1);
        std::fs::write(&path, aged).expect("written");
    }

    #[test]
    fn times_go_on_while_the_daemon_is_away() {
        let directory = tempfile::tempdir().expect("a directory");
        let model = directory.path().join("model");
        let (mut control, ..) = fake::start_from("", Some(&model));
        let lines = "create a hash:ip timeout 600\nadd a 10.0.0.1\nadd a 10.0.0.2 timeout 5\nadd a 10.0.0.3 timeout 0\n\
                     create m bitmap:ip,mac range 10.0.0.0/24 timeout 5\nadd m 10.0.0.1\n";
        assert_eq!(control.set_lines(lines, false).failed, None);
        drop(control);
        age(&model, 100);
        let (control, ..) = fake::start_from("", Some(&model));
        let entries: Vec<usize> = control.set_views().into_iter().map(|view| view.entries).collect();
        assert_eq!(entries, [2, 1], "what is over is left out");
        let left = |control: &Control| control.set_listing(None).expect("all").all(crate::sets::now());
        let text = left(&control);
        let is_there = |line: &str| text.lines().any(|other| other == line);
        assert!(is_there("add a 10.0.0.1 timeout 500") || is_there("add a 10.0.0.1 timeout 499"), "{text}");
        assert!(is_there("add a 10.0.0.3 timeout 0"), "{text}");
        assert!(is_there("add m 10.0.0.1 timeout 5"), "time begins with the MAC: {text}");
        // Nothing was changed, nothing is written: what passes counts none the less.
        drop(control);
        age(&model, 1000);
        let (control, ..) = fake::start_from("", Some(&model));
        assert!(left(&control).contains("add a 10.0.0.3 timeout 0"));
        assert_eq!(control.set_views()[0].entries, 1);
    }

    #[test]
    fn what_a_line_did_before_it_failed_outlives_the_process() {
        let directory = tempfile::tempdir().expect("a directory");
        let model = directory.path().join("model");
        let (mut control, ..) = fake::start_from("", Some(&model));
        let entries = |control: &Control| control.set_views()[0].entries;
        assert_eq!(control.set_lines("create a hash:ip\nadd a 10.0.0.3\n", false).failed, None);
        control.look_after_sets();
        for (line, left) in [("add a 10.0.0.1-10.0.0.5", 3), ("del a 10.0.0.1-10.0.0.6", 0)] {
            while control.sets_file.as_ref().is_some_and(|file| file.writing.is_busy.load(super::Relaxed)) {
                std::thread::yield_now();
            }
            assert!(control.set_lines(line, false).failed.is_some(), "one is there, or is not");
            assert_eq!(entries(&control), left);
            drop(control);
            control = fake::start_from("", Some(&model)).0;
            assert_eq!(entries(&control), left, "{line}");
        }
    }

    #[test]
    fn what_somebody_else_put_in_the_place_of_the_sets_is_not_taken_and_holds_up_no_start() {
        let directory = tempfile::tempdir().expect("a directory");
        let model = directory.path().join("model");
        let (mut control, ..) = fake::start_from("", Some(&model));
        assert_eq!(control.set_lines("create a hash:ip\n", false).failed, None);
        drop(control);
        let (ours, elsewhere) = (super::beside(&model), directory.path().join("elsewhere"));
        std::fs::rename(&ours, &elsewhere).expect("it was written");
        let sets = || super::first(Some(&model)).views().len();
        std::os::unix::fs::symlink(&elsewhere, &ours).expect("a link");
        assert_eq!(sets(), 0);
        std::fs::remove_file(&ours).expect("there");
        mknodat(CWD, &ours, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
        assert_eq!(sets(), 0);
        std::fs::rename(&elsewhere, &ours).expect("there");
        assert_eq!(sets(), 1);
    }

    #[test]
    fn sets_and_a_model_that_cannot_be_saved_are_an_alarm_and_are_saved_as_soon_as_they_can() {
        let directory = tempfile::tempdir().expect("a directory");
        let absent = directory.path().join("absent");
        let model = absent.join("model");
        let (mut control, ..) = fake::start_from("", Some(&model));
        assert_eq!(control.set_lines("create a hash:ip\n", false).failed, None);
        let deadline = Instant::now() + Duration::from_secs(10);
        // They are tried again without a change.
        let try_until = |control: &mut Control, is_done: &dyn Fn(&Control) -> bool| {
            while !is_done(control) {
                assert!(Instant::now() < deadline);
                control.look_after_sets();
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        let failed = |control: &Control| {
            let counted = control.counted();
            (counted.unsaved_models, counted.unsaved_sets)
        };
        try_until(&mut control, &|control| failed(control).0 >= 1 && failed(control).1 >= 2);
        control.alarms.look(&*control.plane, control.counted(), Instant::now());
        let alarms = control.status().alarms;
        for what in ["the model cannot be saved", "the IP sets cannot be saved"] {
            assert!(alarms.iter().any(|alarm| alarm.starts_with(what)), "{what}: {alarms:?}");
        }
        std::fs::create_dir(&absent).expect("made");
        try_until(&mut control, &|_| super::beside(&model).exists() && model.exists());
        drop(control);
        let (control, ..) = fake::start_from("", Some(&model));
        assert_eq!(control.set_views().len(), 1);
    }

    #[test]
    fn sets_that_could_not_be_saved_are_saved_at_the_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let model = directory.path().join("absent/model");
        let (mut control, ..) = fake::start_from("", Some(&model));
        assert_eq!(control.set_lines("create a hash:ip\n", false).failed, None);
        while control.counted().unsaved_sets == 0 {
            control.look_after_sets();
            std::thread::yield_now();
        }
        std::fs::create_dir(directory.path().join("absent")).expect("made");
        drop(control);
        assert!(super::beside(&model).exists() && model.exists());
    }
}
