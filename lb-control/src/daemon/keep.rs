//! The model's file: what the operator wrote outlives the process, so that the connections which outlive it have their
//! services (`docs/decisions/0006-model-outlives-the-process.md`).
//!
//! ```text
//! lbd-model 1 boot=<id> config=<bytes> model=<bytes> rules=<bytes> [accounts=<bytes>] crc32=<of all, hex>⏎
//! <the config file's text as it was applied last><the commands that make the model, as JSON><those that make the rules><the accounts>
//! ```
//!
//! A thread of its own writes the newest state beside the file and renames it, so that a change costs its author the
//! handing over alone and a reader finds a whole state or the one before. It rests for [`REST`] times as long as it worked, a second
//! at most: many changes of a large model in turn leave the processor to who makes them. What could not be written is tried again after
//! [`file::RETRY`], and when it is over.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};
use serde::de::DeserializeOwned;
use tracing::{info, warn};

use lb_core::rule::fingerprint::Fingerprints;
use lb_core::tables::{Service, Services, Sysctls};

use super::file::{self, Unreadable};
use crate::api::accounts::AccountCommand;
use crate::api::rules::RuleBatch;
use crate::api::types::{Command, ErrorBody, SyncDaemon, Timeouts};
use crate::config::Config;
use crate::model::rules::{Accounts, Written};
use crate::model::{self, Limits, Model};

const MAGIC: &str = "lbd-model";
/// Of the header and of what follows it. What commands learn to say has a default, so that it needs no new one.
const VERSION: u32 = 1;
/// Longest header, bytes.
const MAX_HEADER: usize = 256;
const REST: u32 = 9;
const LONGEST_REST: Duration = Duration::from_secs(1);
const NOT_SAVED: &str =
    "cannot save the model: what was made by command will be missing after the next start";

/// What runs, as the operator wrote it.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    /// What the config file said when it was applied last.
    pub(super) config: Config,
    pub(super) model: Model,
    pub(super) rules: Vec<RuleBatch>,
    pub(super) accounts: Vec<AccountCommand>,
}

/// Why a model's file is not used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    File(Unreadable),
    #[error("it is no model of lbd's")]
    NotAModel,
    #[error("it has the format {0:?}, this lbd has {VERSION}")]
    OtherVersion(String),
    #[error("it is from before the machine's last boot")]
    OtherBoot,
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("the config file of then is not understood: line {line}: {message}")]
    Config { line: usize, message: String },
    #[error("{0}")]
    Model(ErrorBody),
}

/// Reads what the run before left; `None`: nothing.
fn load(path: &Path, limits: Limits) -> Result<Option<Kept>, Unusable> {
    let Some(bytes) = file::read(path).map_err(Unusable::File)? else { return Ok(None) };
    let boot = file::boot_id().map_err(|error| Unusable::File(Unreadable::Read(error)))?;
    decode(&bytes, &boot, limits).map(Some)
}

/// As [`load`]; what is unusable, and what is used, is said in one line.
pub(super) fn recall(path: &Path, limits: Limits) -> Option<Kept> {
    let file = path.display();
    match load(path, limits) {
        Ok(kept) => {
            if let Some(Kept { model, .. }) = &kept {
                let servers: usize = model.services().map(|service| service.servers.len()).sum();
                info!(%file, services = model.services().len(), servers, "goes on from the model of the run before");
            }
            kept
        }
        Err(why) => {
            warn!(%file, %why, "the model of the run before is not used: the config file alone counts");
            None
        }
    }
}

/// What runs, to be written.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) config: Arc<str>,
    pub(super) timeouts: Timeouts,
    pub(super) sysctls: Sysctls,
    pub(super) services: Arc<Services>,
    pub(super) daemons: Vec<SyncDaemon>,
    pub(super) fingerprints: Arc<Fingerprints>,
    pub(super) rules: Written,
    pub(super) accounts: Accounts,
}

fn encode(state: &State, boot: &str) -> Vec<u8> {
    let State { config, timeouts, sysctls, services, daemons, fingerprints, rules, accounts } = state;
    let mut sorted: Vec<&Arc<Service>> = services.iter().collect();
    sorted.sort_unstable_by_key(|service| model::place(&service.key));
    let commands: Vec<Command> =
        model::commands(*timeouts, *sysctls, sorted.into_iter(), daemons.iter(), fingerprints).collect();
    // They have no map with keys that are no strings, and nothing else fails.
    let model = serde_json::to_vec(&commands).unwrap_or_default();
    let rules = serde_json::to_vec(&rules.batches()).unwrap_or_default();
    // Who has none of them goes on in an older one, too.
    let (of_accounts, accounts) = match accounts.is_empty() {
        true => (String::new(), Vec::new()),
        false => {
            let accounts = serde_json::to_vec(&accounts.commands()).unwrap_or_default();
            (format!(" accounts={}", accounts.len()), accounts)
        }
    };
    let checksum = checksum(&[config.as_bytes(), &model, &rules, &accounts]);
    let header = format!(
        "{MAGIC} {VERSION} boot={boot} config={} model={} rules={}{of_accounts} crc32={checksum}\n",
        config.len(),
        model.len(),
        rules.len()
    );
    [header.as_bytes(), config.as_bytes(), &model, &rules, &accounts].concat()
}

fn decode(bytes: &[u8], boot: &str, limits: Limits) -> Result<Kept, Unusable> {
    let end = bytes.iter().take(MAX_HEADER).position(|&byte| byte == b'\n').ok_or(Unusable::NotAModel)?;
    let header = std::str::from_utf8(&bytes[..end]).map_err(|_| Unusable::NotAModel)?;
    let rest = &bytes[end + 1..];
    let mut words = header.split(' ').peekable();
    if words.next() != Some(MAGIC) {
        return Err(Unusable::NotAModel);
    }
    let version = words.next().unwrap_or_default();
    if version != VERSION.to_string() {
        return Err(Unusable::OtherVersion(version.to_owned()));
    }
    let damaged = |what: &str| Unusable::Damaged(what.to_owned());
    let mut field = |name: &str| {
        let value = words.peek().and_then(|word| word.strip_prefix(name)?.strip_prefix('='));
        let value = value.ok_or_else(|| damaged("its first line"))?;
        words.next();
        Ok(value)
    };
    let of_boot = field("boot")?;
    let (config, model) = (field("config")?, field("model")?);
    // Older ones have none.
    let (rules, accounts) = (field("rules").unwrap_or("0"), field("accounts").unwrap_or("0"));
    let expected = field("crc32")?;
    if words.next().is_some() {
        return Err(damaged("its first line"));
    }
    if of_boot != boot {
        return Err(Unusable::OtherBoot);
    }
    let length = |text: &str| text.parse::<usize>().map_err(|_| damaged("its first line"));
    let lengths = [length(config)?, length(model)?, length(rules)?, length(accounts)?];
    if lengths.into_iter().try_fold(0_usize, usize::checked_add) != Some(rest.len()) {
        return Err(damaged("its length"));
    }
    let (config, rest) = rest.split_at(lengths[0]);
    let (model, rest) = rest.split_at(lengths[1]);
    let (rules, accounts) = rest.split_at(lengths[2]);
    if expected != checksum(&[config, model, rules, accounts]) {
        return Err(damaged("its checksum"));
    }
    let config = std::str::from_utf8(config).map_err(|error| Unusable::Damaged(error.to_string()))?;
    let config = Config::parse(config).map_err(|errors| match errors.into_iter().next() {
        Some(error) => Unusable::Config { line: error.line, message: error.message },
        None => damaged("its config"),
    })?;
    let commands: Vec<Command> =
        serde_json::from_slice(model).map_err(|error| Unusable::Damaged(error.to_string()))?;
    let mut model = Model::new(limits);
    model.apply_all(&commands).map_err(|(_, error)| Unusable::Model(error))?;
    Ok(Kept { config, model, rules: list(rules)?, accounts: list(accounts)? })
}

/// A list as JSON; of no bytes there is none.
fn list<T: DeserializeOwned>(bytes: &[u8]) -> Result<Vec<T>, Unusable> {
    match bytes {
        [] => Ok(Vec::new()),
        bytes => serde_json::from_slice(bytes).map_err(|error| Unusable::Damaged(error.to_string())),
    }
}

fn checksum(parts: &[&[u8]]) -> String {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    format!("{:08x}", hasher.finalize())
}

/// Times that the file was written, and that this failed.
#[derive(Debug, Default)]
pub(crate) struct KeepCounters {
    pub(crate) written: AtomicU64,
    pub(crate) failed: AtomicU64,
}

/// What is to be written next; a newer state takes the place of one that has not been written yet.
#[derive(Debug, Default)]
struct Next {
    state: Option<State>,
    is_over: bool,
}

#[derive(Debug, Default)]
struct Shared {
    next: Mutex<Next>,
    has_changed: Condvar,
    counters: KeepCounters,
}

impl Shared {
    fn next(&self) -> MutexGuard<'_, Next> {
        // Each change of it is whole.
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the model's file. Dropping it waits until the newest state is written.
#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

impl Keeper {
    /// `None`: there is no boot's id or no thread to be had, as the log says.
    pub(super) fn start(path: &Path) -> Option<Keeper> {
        let shared = Arc::new(Shared::default());
        let (of_writer, file) = (shared.clone(), path.to_owned());
        let writer = file::boot_id().and_then(|boot| {
            let life = move || write_all(&of_writer, &file, &boot);
            thread::Builder::new().name("model".to_owned()).spawn(life)
        });
        match writer {
            Ok(writer) => Some(Keeper { shared, writer: Some(writer) }),
            Err(error) => {
                warn!(file = %path.display(), %error, "{NOT_SAVED}");
                None
            }
        }
    }

    /// Has this written as soon as what is being written is done. Does not wait.
    pub(super) fn keep(&self, state: State) {
        self.shared.next().state = Some(state);
        self.shared.has_changed.notify_one();
    }

    pub(super) fn counters(&self) -> &KeepCounters {
        &self.shared.counters
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.next().is_over = true;
        self.shared.has_changed.notify_one();
        if let Some(writer) = self.writer.take() {
            // It does not panic; if it did, the file is as it was.
            let _ = writer.join();
        }
    }
}

/// The writer's life: one state after the other, until it is over and none is left, or the last cannot be written.
fn write_all(shared: &Shared, path: &Path, boot: &str) {
    let mut is_failing = false;
    loop {
        let (state, is_over) = {
            let mut next = shared.next();
            loop {
                if let Some(state) = next.state.take() {
                    break (state, next.is_over);
                }
                if next.is_over {
                    return;
                }
                next = shared.has_changed.wait(next).unwrap_or_else(PoisonError::into_inner);
            }
        };
        let begun = worked();
        match file::replace(path, &encode(&state, boot)) {
            Ok(()) => {
                shared.counters.written.fetch_add(1, Relaxed);
                if is_failing {
                    info!(file = %path.display(), "the model is saved again");
                }
                is_failing = false;
            }
            Err(error) => {
                shared.counters.failed.fetch_add(1, Relaxed);
                if !is_failing {
                    warn!(file = %path.display(), %error, "{NOT_SAVED}");
                }
                is_failing = true;
                if is_over {
                    return;
                }
                shared.next().state.get_or_insert(state);
            }
        }
        let rest =
            if is_failing { file::RETRY } else { LONGEST_REST.min(worked().saturating_sub(begun) * REST) };
        // It matters to nobody why it ends.
        drop(shared.has_changed.wait_timeout_while(shared.next(), rest, |next| !next.is_over));
    }
}

/// What this thread has had of a processor.
fn worked() -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(tv_sec.unsigned_abs(), u32::try_from(tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::api::types::{Command, ServerSpec, ServiceAddress, ServiceSpec};
    use crate::daemon::fake;
    use crate::model::rules::RuleTables;

    const LIMITS: Limits = Limits { services: 64, servers: 64 };
    const BOOT: &str = "8f6e2f3a-0000-4000-8000-000000000001";

    fn service() -> ServiceAddress {
        "udp/[2001:db8::1]:53".parse().expect("an address")
    }

    const FINGERPRINT: &str = "S4:64:1:60:M*,S,T,N,W7:Linux:2.6:8:";

    fn model() -> Model {
        let mut model = Model::new(LIMITS);
        let server = ServerSpec::new("[2001:db8::9]:53".parse().expect("an address"));
        let commands = [
            Command::AddService(ServiceSpec::new(service(), "rr")),
            Command::AddServer { service: service(), server },
            Command::AddFingerprint { line: FINGERPRINT.to_owned() },
        ];
        model.apply_all(&commands).expect("right");
        model
    }

    fn rules() -> Vec<RuleBatch> {
        let rules = serde_json::json!([{
            "family": "ipv6",
            "tables": [{"table": "raw", "empty": true, "commands": [
                {"do": "append", "chain": "PREROUTING", "rule": ["-s", "2001:db8::/32", "-j", "DROP"]},
            ]}],
        }]);
        serde_json::from_value(rules).expect("right")
    }

    fn accounts() -> Vec<AccountCommand> {
        let accounts = serde_json::json!([
            {"do": "add", "name": "a", "quota": {"unit": "packets", "limit": 9}, "counts": {"packets": 1, "bytes": 2}},
        ]);
        serde_json::from_value(accounts).expect("right")
    }

    fn state(model: &Model) -> State {
        let services = Arc::new(Services::new(model.services().cloned()));
        let daemons = model.sync_daemons().cloned().collect();
        let mut tables = RuleTables::new(1);
        rules().iter().for_each(|batch| assert_eq!(tables.apply(batch, &[]), Ok(true)));
        tables.change_accounts(&accounts()).expect("room");
        State {
            config: text(),
            timeouts: model.timeouts(),
            sysctls: model.sysctls(),
            services,
            daemons,
            fingerprints: model.fingerprints().clone(),
            rules: tables.written(),
            accounts: tables.known_accounts().clone(),
        }
    }

    fn text() -> Arc<str> {
        fake::config("[timeouts]\nudp = 10 # ≤ 30\n").text
    }

    fn whole() -> Vec<u8> {
        encode(&state(&model()), BOOT)
    }

    /// The file's header as `change` makes it, over the same content.
    fn with_header(change: impl Fn(&str) -> String) -> Vec<u8> {
        let whole = whole();
        let end = whole.iter().position(|&byte| byte == b'\n').expect("a header");
        let header = std::str::from_utf8(&whole[..end]).expect("text");
        [change(header).as_bytes(), &whole[end..]].concat()
    }

    fn refusal(bytes: &[u8]) -> String {
        decode(bytes, BOOT, LIMITS).expect_err("refused").to_string()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let kept = decode(&whole(), BOOT, LIMITS).expect("undamaged");
        assert_eq!(kept.config.timeouts.udp, 10);
        assert_eq!(kept.config.text, text());
        assert_eq!(kept.rules, rules());
        assert_eq!(kept.model.find(&service()).expect("there").servers.len(), 1);
        let fingerprints: Vec<String> = kept.model.fingerprints().iter().map(ToString::to_string).collect();
        assert_eq!(fingerprints, [FINGERPRINT]);
    }

    #[test]
    fn accounts_are_read_again_and_without_any_the_file_is_as_before_there_were_some() {
        let kept = decode(&whole(), BOOT, LIMITS).expect("undamaged");
        assert_eq!((kept.accounts, kept.rules), (accounts(), rules()));
        let without = encode(&State { accounts: Accounts::default(), ..state(&model()) }, BOOT);
        assert!(!String::from_utf8_lossy(&without).contains("accounts"));
        let kept = decode(&without, BOOT, LIMITS).expect("undamaged");
        assert_eq!((kept.accounts, kept.rules), (Vec::new(), rules()));
    }

    #[test]
    fn a_file_from_before_there_were_rules_is_read() {
        let State { config, .. } = state(&model());
        let checksum = checksum(&[config.as_bytes(), b"[]"]);
        let old =
            format!("lbd-model 1 boot={BOOT} config={} model=2 crc32={checksum}\n{config}[]", config.len());
        assert!(decode(old.as_bytes(), BOOT, LIMITS).expect("undamaged").rules.is_empty());
    }

    #[test]
    fn each_kind_of_unusable_file_is_told_by_its_reason() {
        let cases: [(Vec<u8>, &str); 9] = [
            (Vec::new(), "no model of lbd's"),
            (b"[dataplane]\nworkers = [1]\n".to_vec(), "no model of lbd's"),
            (vec![0; 4096], "no model of lbd's"),
            (
                with_header(|h| h.replace("lbd-model 1 ", "lbd-model 2 ")),
                "it has the format \"2\", this lbd has 1",
            ),
            (
                with_header(|h| h.replace("000000000001", "000000000002")),
                "from before the machine's last boot",
            ),
            (with_header(|h| h.replace(" crc32=", " crc=")), "damaged: its first line"),
            (with_header(|h| format!("{h} more=1")), "damaged: its first line"),
            (with_header(|h| h.replace(" config=", " config=1")), "damaged: its length"),
            ([whole(), b" ".to_vec()].concat(), "damaged: its length"),
        ];
        for (bytes, reason) in cases {
            let said = refusal(&bytes);
            assert!(said.contains(reason), "{reason}: {said}");
        }
        let narrow = Limits { services: 64, servers: 0 };
        let said = decode(&whole(), BOOT, narrow).expect_err("no room").to_string();
        assert_eq!(
            said,
            format!(
                "real server [2001:db8::9]:53 of {}: there is room for 0 real servers (dataplane.max_servers)",
                service()
            )
        );
        let config = Arc::from("[dataplane]\nworkers = [1]\ncolour = 3\n");
        let old_words = encode(&State { config, ..state(&model()) }, BOOT);
        assert!(refusal(&old_words).starts_with("the config file of then is not understood: line "));
    }

    proptest! {
        #[test]
        fn no_damage_is_taken_for_a_model(at in any::<prop::sample::Index>(), bit in 0..8u8, cut in any::<bool>()) {
            let mut bytes = whole();
            let at = at.index(bytes.len());
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1 << bit;
            }
            prop_assert!(decode(&bytes, BOOT, LIMITS).is_err(), "byte {at}");
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let header = b"lbd-model 1 boot=b config=";
            let _ = decode(&[&header[..], &bytes].concat(), "b", LIMITS);
            let _ = decode(&bytes, "b", LIMITS);
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_no_error_and_a_link_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("model");
        assert!(load(&path, LIMITS).expect("nothing is wrong").is_none());
        std::os::unix::fs::symlink("/etc/hostname", &path).expect("a link");
        assert!(matches!(load(&path, LIMITS), Err(Unusable::File(_))));
    }

    #[test]
    fn the_newest_state_is_on_disk_when_the_keeper_is_gone_and_nothing_is_left_beside() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("model");
        let keeper = Keeper::start(&path).expect("a thread");
        let mut model = model();
        for port in 1..200_u16 {
            let server = format!("[2001:db8::a]:{port}").parse().expect("an address");
            if port > 1 {
                let gone = format!("[2001:db8::a]:{}", port - 1).parse().expect("an address");
                model.apply(&Command::DeleteServer { service: service(), server: gone }).expect("there");
                model.release(|_| false);
            }
            model
                .apply(&Command::AddServer { service: service(), server: ServerSpec::new(server) })
                .expect("room");
            keeper.keep(state(&model));
        }
        drop(keeper);
        let kept = load(&path, LIMITS).expect("readable").expect("there");
        assert_eq!(kept.model.find(&service()).expect("there").servers[0].port, 199);
        let files: Vec<_> = fs::read_dir(directory.path()).expect("readable").collect();
        assert_eq!(files.len(), 1, "{files:?}");
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_tried_again_and_so_it_is_at_the_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("absent").join("model");
        let keeper = Keeper::start(&path).expect("a thread");
        let fail = || {
            let before = keeper.counters().failed.load(Relaxed);
            keeper.keep(state(&model()));
            while keeper.counters().failed.load(Relaxed) == before {
                thread::yield_now();
            }
        };
        fail();
        fs::create_dir(path.parent().expect("a parent")).expect("made");
        while keeper.counters().written.load(Relaxed) == 0 {
            thread::yield_now();
        }
        assert!(load(&path, LIMITS).expect("readable").is_some());
        fs::remove_dir_all(path.parent().expect("a parent")).expect("removed");
        fail();
        fs::create_dir(path.parent().expect("a parent")).expect("made");
        let begun = Instant::now();
        drop(keeper);
        assert!(begun.elapsed() < file::RETRY / 2, "it does not rest then");
        assert!(load(&path, LIMITS).expect("readable").is_some());
    }
}
