//! The config file: TOML text in, valid values or every error with its line out.
//!
//! What stands in a [`Config`] has been checked: types, ranges, duplicates, address families. What only the machine
//! can tell (is there such a device, is the socket taken) is found out at start.

pub mod keys;
mod mark;
mod merge;
mod nflog;
mod quic;
mod read;
mod reload;
mod said;
mod service;
mod sync;

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use lb_core::tables::{Marks, Protocol, Settings, Sysctls};
use lb_core::time::Timeout;

pub use mark::MarkSets;
pub use nflog::Nflog;
pub use read::ConfigError;
use read::{Errors, Table};
pub use reload::{AddressChange, Reload};
pub use said::Said;
pub use service::{RealServer, VirtualService};
pub use sync::Sync;

use crate::api::types::Timeouts;

/// A config file's content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    pub dataplane: Dataplane,
    /// At least one.
    pub ports: Vec<Port>,
    pub api: Api,
    /// 1..=2678400 each.
    pub timeouts: Timeouts,
    pub sync: Sync,
    pub nflog: Nflog,
    /// In the file's order, each key once.
    pub services: Vec<VirtualService>,
    /// In the file's order.
    pub marks: Marks,
    /// What each of them names; the rules themselves hold no ids yet.
    pub mark_sets: Vec<MarkSets>,
    pub sysctls: Sysctls,
    /// All that was read, comments too: for the next run, which compares.
    pub text: Arc<str>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dataplane {
    /// CPU numbers, at least one, each once.
    pub workers: Vec<u32>,
    pub driver_args: Vec<String>,
    pub memory_mb: u32,
    pub huge_pages: bool,
    pub flow_memory: FlowMemory,
    pub max_connections: u32,
    pub max_ipv6_connections: u32,
    pub max_servers: u32,
    pub idle: Idle,
    pub forwarding: bool,
    /// Seconds that connections have to end in after SIGTERM.
    pub drain_secs: u32,
}

/// Where connections are kept, also for the next start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FlowMemory {
    /// In a file whose name is [made of](Config::flow_memory_name) that of the API's socket.
    Derived,
    File(PathBuf),
    /// In the process alone.
    None,
}

impl FlowMemory {
    /// In the words of the file.
    pub fn text(&self) -> String {
        match self {
            FlowMemory::Derived => "named after api.socket".to_owned(),
            FlowMemory::File(path) => path.display().to_string(),
            FlowMemory::None => "none".to_owned(),
        }
    }
}

/// What a worker does when there is no packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Idle {
    /// As `Pause` on a CPU that the kernel was told to leave alone, as `Sleep` on others.
    Auto,
    /// It polls at full speed.
    Poll,
    /// It polls, and lets the CPU's sibling thread run meanwhile.
    Pause,
    /// It sleeps for moments.
    Sleep,
    /// It sleeps until its ports' receive interrupts, or others, wake it.
    Interrupt,
}

impl Idle {
    /// In the words of the file.
    pub fn name(self) -> &'static str {
        IDLES.iter().find(|(_, idle)| *idle == self).map_or("", |(name, _)| name)
    }
}

const IDLES: &[(&str, Idle)] = &[
    ("auto", Idle::Auto),
    ("poll", Idle::Poll),
    ("pause", Idle::Pause),
    ("sleep", Idle::Sleep),
    ("interrupt", Idle::Interrupt),
];

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    pub name: String,
    pub device: String,
    pub addresses: Vec<PortAddress>,
    pub outside: bool,
    pub mtu: u16,
}

/// An address and the length of its network part, in bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PortAddress {
    pub address: IpAddr,
    pub len: u8,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Api {
    pub socket: PathBuf,
    pub http: Option<SocketAddr>,
}

const PROTOCOLS: &[(&str, Protocol)] =
    &[("tcp", Protocol::TCP), ("udp", Protocol::UDP), ("sctp", Protocol::SCTP)];

/// Longest file that is read, bytes.
const MAX_FILE: u64 = 256 << 20;
/// Most ports: as many as DPDK has by default.
const MAX_PORTS: usize = 32;
const MAX_WORKERS: usize = 64;
/// Highest CPU number that DPDK's default build knows is below this.
const MAX_CPU: u32 = 1023;
const DEFAULT_SOCKET: &str = "/run/lb/api.sock";
/// `sun_path` of a UNIX socket holds 108 bytes with the final 0.
const MAX_SOCKET_PATH: usize = 107;

/// Why there is no config.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{path}: {error}")]
    Read { path: String, error: std::io::Error },
    #[error("{path}: longer than {MAX_FILE} bytes")]
    TooLong { path: String },
    /// One line an error.
    #[error("{}", lines(.path, .errors))]
    Invalid { path: String, errors: Vec<ConfigError> },
}

fn lines(path: &str, errors: &[ConfigError]) -> String {
    errors.iter().map(|e| format!("{path}:{}: {}", e.line, e.message)).collect::<Vec<_>>().join("\n")
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`LoadError`], which prints as one line for each thing that is wrong.
    pub fn load(path: &Path) -> Result<Config, LoadError> {
        let name = || path.display().to_string();
        let read = |error| LoadError::Read { path: name(), error };
        let mut text = Vec::new();
        // What is no regular file does not tell its length.
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut text))
            .map_err(read)?;
        if text.len() as u64 > MAX_FILE {
            return Err(LoadError::TooLong { path: name() });
        }
        let text = String::from_utf8(text)
            .map_err(|error| read(std::io::Error::new(std::io::ErrorKind::InvalidData, error)))?;
        Config::parse(&text).map_err(|errors| LoadError::Invalid { path: name(), errors })
    }

    /// Parses and checks a file's text.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of lines.
    pub fn parse(text: &str) -> Result<Config, Vec<ConfigError>> {
        let mut errors = Errors::new(text);
        let (document, syntax) = DeTable::parse_recoverable(text);
        for error in &syntax {
            let at = error.span().unwrap_or(0..0);
            errors.add(&at, error.message());
        }
        if !syntax.is_empty() {
            return Err(errors.into_sorted());
        }
        let document = document.get_ref();
        for key in document.keys() {
            if !keys::TOP.contains(&key.get_ref().as_ref()) {
                let text = read::unknown_key("", key.get_ref(), keys::TOP.iter().copied());
                errors.add(&key.span(), text);
            }
        }
        let (marks, mark_sets) = mark::marks(&mut errors, document);
        let dataplane = dataplane(&mut errors, document);
        let services = service::services(&mut errors, document, dataplane.max_servers);
        let config = Config {
            dataplane,
            ports: ports(&mut errors, document),
            api: api(&mut errors, document),
            timeouts: timeouts(&mut errors, document),
            sync: sync::sync(&mut errors, document),
            nflog: nflog::nflog(&mut errors, document),
            services,
            marks,
            mark_sets,
            sysctls: sysctls(&mut errors, document),
            text: text.into(),
        };
        let errors = errors.into_sorted();
        if errors.is_empty() { Ok(config) } else { Err(errors) }
    }

    /// The name of the file of [`FlowMemory::Derived`], so that two daemons with two sockets have two files:
    /// `lbd-run-lb-api.sock`.
    pub fn flow_memory_name(&self) -> String {
        format!("lbd{}", self.api.socket.display()).replace('/', "-")
    }

    /// Where the model is kept for the next start, if connections are: always on tmpfs, since hugetlbfs has no files to write to.
    pub fn model_file(&self) -> Option<PathBuf> {
        let is_kept = self.dataplane.flow_memory != FlowMemory::None;
        is_kept.then(|| model_of(&self.flow_memory_name()))
    }

    /// The values that go into the tables.
    pub fn settings(&self) -> Settings {
        Settings {
            tcp: Timeout::from_secs(self.timeouts.tcp),
            tcp_fin: Timeout::from_secs(self.timeouts.tcp_fin),
            udp: Timeout::from_secs(self.timeouts.udp),
            forwarding: self.dataplane.forwarding,
            draining: false,
            is_sharing: false,
            is_standby: false,
            sysctls: self.sysctls,
            ..Settings::default()
        }
    }
}

/// The file of the model that goes with the flow memory of this [name](Config::flow_memory_name).
pub fn model_of(flow_memory_name: &str) -> PathBuf {
    Path::new("/dev/shm").join(format!("{flow_memory_name}.model"))
}

fn sysctls(errors: &mut Errors<'_>, document: &DeTable<'_>) -> Sysctls {
    let mut all = Sysctls::default();
    let Some(table) = section(errors, document, &keys::SYSCTL) else { return all };
    for sysctl in Sysctls::all() {
        if let Some(value) = table.integer(errors, sysctl.name, 0..=sysctl.max) {
            *(sysctl.value)(&mut all) = value;
        }
    }
    for fixed in Sysctls::fixed() {
        table.integer(errors, fixed.name, fixed.value..=fixed.value);
    }
    all
}

fn section<'d>(
    errors: &mut Errors<'_>,
    document: &'d DeTable<'d>,
    section: &'static keys::Section,
) -> Option<Table<'d>> {
    Table::new(errors, document.get(section.name)?, section, section.name.to_owned())
}

/// The tables of `[[section]]`, each named after its value of `named_by`, or after its firewall mark.
fn sections<'d>(
    errors: &mut Errors<'_>,
    document: &'d DeTable<'d>,
    section: &'static keys::Section,
    named_by: &str,
) -> Vec<Table<'d>> {
    let Some(value) = document.get(section.name) else { return Vec::new() };
    let DeValue::Array(list) = value.get_ref() else {
        errors.add(&value.span(), format!("{0}: expected a list of tables: [[{0}]]", section.name));
        return Vec::new();
    };
    list.iter()
        .enumerate()
        .filter_map(|(index, value)| {
            let name = match value.get_ref() {
                DeValue::Table(table) => {
                    let value = |key| table.get(key).map(|value| value.get_ref());
                    match (value(named_by), value("fwmark")) {
                        (Some(DeValue::String(name)), _) => format!("{} {name}", section.name),
                        (_, Some(DeValue::Integer(mark))) => format!("{} fwmark {mark}", section.name),
                        _ => format!("{} number {}", section.name, index + 1),
                    }
                }
                _ => section.name.to_owned(),
            };
            Table::new(errors, value, section, name)
        })
        .collect()
}

fn dataplane(errors: &mut Errors<'_>, document: &DeTable<'_>) -> Dataplane {
    let mut dataplane = Dataplane {
        workers: Vec::new(),
        driver_args: Vec::new(),
        memory_mb: 512,
        huge_pages: true,
        flow_memory: FlowMemory::Derived,
        max_connections: 1_000_000,
        max_ipv6_connections: 1_000_000,
        max_servers: 65_536,
        idle: Idle::Auto,
        forwarding: true,
        drain_secs: 0,
    };
    let Some(table) = section(errors, document, &keys::DATAPLANE) else {
        if !document.contains_key("dataplane") {
            errors.add(&(0..0), "dataplane: missing; required: a table [dataplane] with workers = [CPU, …]");
        }
        return dataplane;
    };
    if table.get("workers").is_none() {
        table.missing(errors, "workers");
    }
    for cpu in table.integers(errors, "workers", 0..=MAX_CPU) {
        if dataplane.workers.contains(&cpu.value) {
            table.error(errors, &cpu.at, "workers", format!("CPU {} stands twice", cpu.value));
        } else {
            dataplane.workers.push(cpu.value);
        }
    }
    if let Some(value) = table.get("workers")
        && let DeValue::Array(list) = value.get_ref()
        && (list.is_empty() || list.len() > MAX_WORKERS)
    {
        let text = format!("{} workers are outside 1..={MAX_WORKERS}", list.len());
        table.error(errors, &value.span(), "workers", text);
    }
    dataplane.driver_args =
        table.strings(errors, "driver_args").into_iter().map(|arg| arg.value.to_owned()).collect();
    for arg in table.strings(errors, "driver_args").iter().filter(|arg| arg.value.contains('\0')) {
        table.error(errors, &arg.at, "driver_args", "holds a NUL character");
    }
    if let Some(number) = table.integer(errors, "memory_mb", 64..=1_048_576) {
        dataplane.memory_mb = number;
    }
    if let Some(fact) = table.boolean(errors, "huge_pages") {
        dataplane.huge_pages = fact;
    }
    if let Some(text) = table.string(errors, "flow_memory") {
        match text.value {
            "none" => dataplane.flow_memory = FlowMemory::None,
            path if path.starts_with('/') && !path.ends_with('/') && !path.contains('\0') => {
                dataplane.flow_memory = FlowMemory::File(path.into());
            }
            other => {
                let message = format!("\"{other}\" is no absolute path of a file, nor \"none\"");
                table.error(errors, &text.at, "flow_memory", message);
            }
        }
    }
    if let Some(number) = table.integer(errors, "max_connections", 1024..=268_435_456) {
        dataplane.max_connections = number;
    }
    let most = dataplane.max_connections;
    dataplane.max_ipv6_connections = table.integer(errors, "max_ipv6_connections", 0..=most).unwrap_or(most);
    if let Some(number) = table.integer(errors, "max_servers", 16..=1_048_576) {
        dataplane.max_servers = number;
    }
    if let Some(idle) = table.choice(errors, "idle", IDLES, &[]) {
        dataplane.idle = idle;
    }
    if let Some(fact) = table.boolean(errors, "forwarding") {
        dataplane.forwarding = fact;
    }
    if let Some(number) = table.integer(errors, "drain_secs", 0..=86_400) {
        dataplane.drain_secs = number;
    }
    dataplane
}

fn ports(errors: &mut Errors<'_>, document: &DeTable<'_>) -> Vec<Port> {
    let mut ports: Vec<Port> = Vec::new();
    if !document.contains_key("port") {
        errors.add(&(0..0), "port: missing; required: a table [[port]] with name and device for each port");
    }
    let tables = sections(errors, document, &keys::PORT, "name");
    if tables.len() > MAX_PORTS {
        let text = format!("port: {} ports are outside 1..={MAX_PORTS}", tables.len());
        errors.add(&tables[MAX_PORTS].at, text);
    }
    for table in tables {
        let name = table.required_string(errors, "name");
        let device = table.required_string(errors, "device");
        if let Some(name) = &name {
            if !is_interface_name(name.value) {
                let text = format!(
                    "\"{}\" is no name of a Linux interface: {}",
                    name.value,
                    keys::PORT.keys[0].allowed
                );
                table.error(errors, &name.at, "name", text);
            }
            if ports.iter().any(|port| port.name == name.value) {
                table.error(errors, &name.at, "name", format!("\"{}\" stands twice", name.value));
            }
        }
        if let Some(device) = &device {
            if device.value.is_empty()
                || device.value.contains('\0')
                || device.value.contains(char::is_whitespace)
            {
                let text = format!("\"{}\" is no PCI address or DPDK vdev", device.value);
                table.error(errors, &device.at, "device", text);
            }
            if let Some(other) = ports.iter().find(|port| port.device == device.value) {
                let text = format!("\"{}\" is taken by port {}", device.value, other.name);
                table.error(errors, &device.at, "device", text);
            }
        }
        let mut addresses = Vec::new();
        for text in table.strings(errors, "addresses") {
            match PortAddress::parse(text.value) {
                // Linux takes the one without a word and has nothing then, and refuses the other.
                Some(PortAddress { address, .. }) if address.is_unspecified() || address.is_multicast() => {
                    let message = format!("{address} is no unicast address");
                    table.error(errors, &text.at, "addresses", message);
                }
                Some(address) => addresses.push(address),
                None => {
                    let message = format!(
                        "\"{}\" is no address with prefix length, such as \"192.0.2.1/24\" or \"2001:db8::1/64\"",
                        text.value
                    );
                    table.error(errors, &text.at, "addresses", message);
                }
            }
        }
        ports.push(Port {
            name: name.map_or(String::new(), |name| name.value.to_owned()),
            device: device.map_or(String::new(), |device| device.value.to_owned()),
            addresses,
            outside: table.boolean(errors, "outside").unwrap_or(false),
            mtu: table.integer(errors, "mtu", 576..=9000).unwrap_or(1500) as u16,
        });
    }
    ports
}

/// What Linux takes, without what needs quoting in a shell.
fn is_interface_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (1..=15).contains(&name.len())
        && name.bytes().all(plain)
        && !matches!(name, "." | ".." | "all" | "default" | "lo")
}

impl PortAddress {
    fn parse(text: &str) -> Option<PortAddress> {
        let (address, len) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let len: u8 = len.parse().ok()?;
        (len <= if address.is_ipv4() { 32 } else { 128 }).then_some(PortAddress { address, len })
    }
}

fn api(errors: &mut Errors<'_>, document: &DeTable<'_>) -> Api {
    let mut api = Api { socket: DEFAULT_SOCKET.into(), http: None };
    let Some(table) = section(errors, document, &keys::API) else { return api };
    if let Some(socket) = table.string(errors, "socket") {
        let path = socket.value;
        if !path.starts_with('/')
            || path.ends_with('/')
            || path.len() > MAX_SOCKET_PATH
            || path.contains('\0')
        {
            let text = format!("\"{path}\" is no absolute path of at most {MAX_SOCKET_PATH} bytes");
            table.error(errors, &socket.at, "socket", text);
        }
        api.socket = path.into();
    }
    if let Some(http) = table.string(errors, "http") {
        api.http = http.value.parse().ok();
        if api.http.is_none() {
            let text = format!(
                "\"{}\" is no address with port, such as \"127.0.0.1:9477\" or \"[::1]:9477\"",
                http.value
            );
            table.error(errors, &http.at, "http", text);
        }
    }
    api
}

fn timeouts(errors: &mut Errors<'_>, document: &DeTable<'_>) -> Timeouts {
    let table = section(errors, document, &keys::TIMEOUTS);
    let mut seconds = |key, default| {
        table.as_ref().and_then(|table| table.integer(errors, key, 1..=Timeout::MAX_SECS)).unwrap_or(default)
    };
    Timeouts { tcp: seconds("tcp", 900), tcp_fin: seconds("tcp_fin", 120), udp: seconds("udp", 300) }
}

#[cfg(test)]
mod tests;
