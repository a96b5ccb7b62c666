//! A small control plane for tests: obeys `ipvsadm` command lines and keeps the services that they make.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use lb_core::ids::{ServerId, ServiceId};
use lb_core::ipvs::SchedulerKind;
use lb_core::ipvs::scheduler::{Scheduler, SchedulerFlags};
use lb_core::tables::{
    ClientMask, Forward, GueChecksum, Persistence, Protocol, Server, Service, ServiceKey, ServiceOptions,
    Services, Settings, Tunnel,
};
use lb_core::time::Timeout;

#[derive(Default)]
pub(crate) struct Model {
    services: HashMap<ServiceKey, Arc<Service>>,
    service_ids: HashMap<ServiceKey, ServiceId>,
    /// Each real server that there ever was, as it was last: a removed one keeps its id.
    known: HashMap<(ServiceKey, SocketAddr), Server>,
    version: u32,
    pub(crate) settings: Settings,
}

impl Model {
    /// After these command lines.
    pub(crate) fn new(lines: &[String]) -> Model {
        let mut model = Model::default();
        for line in lines {
            model.ipvsadm(line);
        }
        model
    }

    /// # Panics
    /// When the line is none of those that the recordings hold, or the kernel would have refused it.
    pub(crate) fn ipvsadm(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["--set", tcp, tcp_fin, udp] = words[..] {
            self.set(tcp, tcp_fin, udp);
            return;
        }
        let options = Options::new(line, &words);
        let key = options.service();
        let old = self.services.remove(&key);
        self.version += 1;
        let mut next = match words[0] {
            "-A" => {
                assert!(old.is_none(), "{line}: the service is there already");
                let next_id = ServiceId(self.service_ids.len() as u32);
                let id = *self.service_ids.entry(key).or_insert(next_id);
                Service::new(None, id, key, options.scheduler(), vec![], self.version)
            }
            "-D" => return,
            command => {
                let old = old.unwrap_or_else(|| panic!("{line}: there is no such service"));
                let (mut servers, mut scheduler, mut version) =
                    (old.servers.clone(), old.scheduler(), self.version);
                match command {
                    "-E" => {
                        scheduler = options.scheduler();
                        if scheduler.kind == old.scheduler {
                            version = old.version;
                        }
                    }
                    "-a" => {
                        servers.insert(0, self.server(key, &options));
                    }
                    "-e" => {
                        let mut edited = self.server(key, &options);
                        let place = servers.iter().position(|server| server.id == edited.id);
                        let place = &mut servers[place.expect("it is there")];
                        if edited.weight == 0 {
                            edited.last_weight = place.last_weight;
                        }
                        *place = edited;
                    }
                    "-d" => {
                        let id = self.known[&(key, options.address("-r"))].id;
                        servers.retain(|server| server.id != id);
                        assert_eq!(servers.len() + 1, old.servers.len(), "{line}");
                    }
                    _ => panic!("{line}: not a command of the recordings"),
                }
                Service::new(Some(&old), old.id, key, scheduler, servers, version)
            }
        };
        if matches!(words[0], "-A" | "-E") {
            next.options = options.service_options();
        }
        self.services.insert(key, Arc::new(next));
    }

    fn set(&mut self, tcp: &str, tcp_fin: &str, udp: &str) {
        let settings = &mut self.settings;
        for (timeout, seconds) in
            [(&mut settings.tcp, tcp), (&mut settings.tcp_fin, tcp_fin), (&mut settings.udp, udp)]
        {
            let seconds = seconds.parse().expect("seconds");
            if seconds > 0 {
                *timeout = Timeout::from_secs(seconds);
            }
        }
    }

    /// The real server that `-a` or `-e` describes.
    fn server(&mut self, key: ServiceKey, options: &Options<'_>) -> Server {
        let address = options.address("-r");
        let before = self.known.get(&(key, address));
        let mut server = Server {
            id: before.map_or(ServerId(self.known.len() as u32), |before| before.id),
            address: address.ip(),
            port: address.port(),
            weight: options.number("-w", 1),
            last_weight: options.number("-w", 1),
            forward: options.forward(),
            upper_threshold: options.number("-x", 0),
            lower_threshold: options.number("-y", 0),
            overloaded: before.map(|before| before.overloaded.clone()).unwrap_or_default(),
        };
        server.after_edit(before.map_or(0, |before| before.upper_threshold));
        self.known.insert((key, address), server.clone());
        server
    }

    pub(crate) fn services(&self) -> Services {
        Services::new(self.services.values().cloned())
    }
}

struct Options<'a> {
    line: &'a str,
    values: HashMap<&'a str, &'a str>,
}

impl<'a> Options<'a> {
    fn new(line: &'a str, words: &[&'a str]) -> Options<'a> {
        let mut values = HashMap::new();
        let mut words = words[1..].iter();
        while let Some(&option) = words.next() {
            let is_flag = matches!(option, "-m" | "-g" | "-i" | "-o" | "--tun-csum");
            let value = if is_flag { "" } else { words.next().expect("a value") };
            values.insert(option, value);
        }
        Options { line, values }
    }

    fn service(&self) -> ServiceKey {
        if let Some(mark) = self.values.get("-f") {
            return ServiceKey::of_mark(mark.parse().expect(self.line), false);
        }
        let kinds = [(Protocol::TCP, "-t"), (Protocol::UDP, "-u"), (Protocol::SCTP, "--sctp-service")];
        let kind = kinds.into_iter().find(|(_, option)| self.values.contains_key(option));
        let (protocol, option) = kind.expect(self.line);
        let address = self.address(option);
        ServiceKey::new(protocol, address.ip(), address.port())
    }

    fn service_options(&self) -> ServiceOptions {
        let mask = self.values.get("-M").map_or(ClientMask::WHOLE, |text| {
            ClientMask::parse(text, self.service().address.is_ipv6()).expect(self.line)
        });
        let persistence = |seconds| Persistence { timeout: Timeout::from_secs(seconds), mask };
        let seconds = self.values.get("-p").map(|seconds| seconds.parse().expect(self.line));
        let one_packet = self.values.contains_key("-o");
        ServiceOptions { persistence: seconds.map(persistence), one_packet, ..ServiceOptions::default() }
    }

    fn address(&self, option: &str) -> SocketAddr {
        self.values[option].parse().expect(self.line)
    }

    fn number(&self, option: &str, default: u32) -> u32 {
        self.values.get(option).map_or(default, |value| value.parse().expect(self.line))
    }

    fn forward(&self) -> Forward {
        let has = |option| self.values.contains_key(option);
        let checksum = has("--tun-csum");
        match self.values.get("--tun-type") {
            _ if has("-m") => Forward::Masq,
            _ if !has("-i") => Forward::Direct,
            None => Forward::Tunnel(Tunnel::Ipip),
            Some(&"gre") => Forward::Tunnel(Tunnel::Gre { checksum }),
            Some(_) => {
                let port = self.number("--tun-port", 0) as u16;
                let checksum = if checksum { GueChecksum::Yes } else { GueChecksum::No };
                Forward::Tunnel(Tunnel::Gue { port, checksum })
            }
        }
    }

    fn scheduler(&self) -> Scheduler {
        let kind = SchedulerKind::from_name(self.values["-s"]).expect(self.line);
        let flags = self.values.get("-b").map_or(vec![], |flags| flags.split(',').collect());
        Scheduler { flags: SchedulerFlags::from_names(kind, flags).expect(self.line), ..kind.into() }
    }
}
