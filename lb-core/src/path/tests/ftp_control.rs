//! Goal: a control connection of FTP outlives its data connections, which are at any worker, and each of these counts once for its real server.
//! Method: a client that fetches files, with time that passes; what `ipvsadm -Ln` counts and `-Lnc` lists.

use super::edited::{FTP, Seg, between, seen, with};
use super::*;

const SERVICE: &str = "192.0.2.10";
const CLIENT: &str = "192.0.2.100";
const CONTROL: u16 = 4000;
/// Ports of the client, the service and the real server.
const ENDS: (u16, u16, u16) = (CONTROL, 80, 8080);

/// Some workers, and the time.
struct Site {
    paths: Vec<Path<Frame>>,
    counters: Arc<[Arc<WorkerCounters>]>,
    now: Tick,
    /// Of the control connection.
    ends: (u16, u16, u16),
    /// Bytes that each of the control connection's ends has sent: the client, the server as it counts, and as the client hears it.
    sent: [u32; 3],
}

impl Site {
    fn new(workers: u16) -> Site {
        Site::of(workers, with(2, FTP))
    }

    fn of(workers: u16, tables: Tables) -> Site {
        let (counters, uses) = (counters(workers.into()), Arc::new(Uses::new(workers.into(), 100)));
        let mut paths: Vec<_> = (0..workers).map(|worker| path(worker, &counters, &uses)).collect();
        let tables = Arc::new(tables);
        paths.iter_mut().for_each(|path| drop(path.adopt(tables.clone())));
        Site { paths, counters, now: Tick(100), ends: ENDS, sent: [1000, 7000, 7000] }
    }

    fn carry(&mut self, port: PortId, frame: &[u8]) -> Vec<Frame> {
        let mut out = Out::default();
        let mut burst = [Frame::new(port, frame)].into_iter().collect();
        self.paths[0].receive(&mut burst, self.now, &mut out);
        while let Some((to, packet, steer)) = out.handed.pop() {
            let mut handed = [(packet, steer)].into_iter().collect();
            self.paths[to.index()].receive_handed_over(&mut handed, self.now, &mut out);
        }
        out.sent.into_iter().map(|(_, frame)| frame).collect()
    }

    /// What the other end hears of it, and from whom.
    fn says(&mut self, is_client: bool, flags: &'static str, data: &str) -> (String, IpAddr) {
        let [client, server, heard] = self.sent;
        let (seq, ack) = if is_client { (client, heard) } else { (server, client) };
        let seg = Seg { seq, ack, flags, data: data.as_bytes().to_vec(), sack: None };
        let sent = self.carry_control(is_client, &seg);
        assert_eq!(sent.len(), 1, "{flags} {data}");
        let told = String::from_utf8(seen(&sent[0]).0.data).expect("text");
        let syn = u32::from(flags.contains('S'));
        if is_client {
            self.sent[0] += syn + data.len() as u32;
        } else {
            self.sent[1] += syn + data.len() as u32;
            self.sent[2] += syn + told.len() as u32;
        }
        (told, read(&sent[0]).0)
    }

    fn carry_control(&mut self, is_client: bool, seg: &Seg) -> Vec<Frame> {
        let (client, virtual_, server) = self.ends;
        let (port, frame) = match is_client {
            true => (WAN, between(C2D, (CLIENT, client), (SERVICE, virtual_), seg)),
            false => (LAN, between((server_mac(11), OUR_LAN), ("10.0.0.11", server), (CLIENT, client), seg)),
        };
        self.carry(port, &frame)
    }

    fn open(&mut self) {
        for (is_client, flags) in [(true, "S"), (false, "SA"), (true, "A")] {
            self.says(is_client, flags, "");
        }
    }

    /// The server waits at a port of its.
    fn waits_at(&mut self, port: u16) {
        let says = format!("227 Passive (10,0,0,11,{},{}).\r\n", port / 256, port % 256);
        let heard = format!("227 Passive (192,0,2,10,{},{}).\r\n", port / 256, port % 256);
        assert_eq!(self.says(false, "A", &says), (heard, ip(SERVICE)));
        self.says(true, "A", "");
    }

    fn data(&mut self, is_client: bool, (client, server): (u16, u16), flags: &str) {
        // What a server opens comes from the port below its service's.
        let virtual_ = if server == 8079 { 79 } else { server };
        let (port, frame) = match is_client {
            true => (WAN, tcp(C2D, (CLIENT, client), (SERVICE, virtual_), flags)),
            false => (LAN, tcp((server_mac(11), OUR_LAN), ("10.0.0.11", server), (CLIENT, client), flags)),
        };
        assert_eq!(self.carry(port, &frame).len(), 1, "{client} {server} {flags}");
    }

    /// The client comes to where the server waits.
    fn comes(&mut self, client: u16, server: u16) {
        for (is_client, flags) in [(true, "S"), (false, "SA"), (true, "A")] {
            self.data(is_client, (client, server), flags);
        }
    }

    fn pass(&mut self, seconds: u32) {
        for _ in 0..seconds {
            self.now = Tick(self.now.0 + Tick::PER_SECOND);
            let mut out = Out::default();
            self.paths.iter_mut().for_each(|path| path.turn(self.now, &mut out));
        }
    }

    /// Clients' and servers' ports of what is listed.
    fn listed(&self) -> Vec<(u16, u16)> {
        let mut all = Vec::new();
        for path in &self.paths {
            path.list(0, u32::MAX, self.now, &mut |view| {
                if !view.has_come() {
                    all.push((view.client.1, view.server.1));
                }
            });
        }
        all.sort_unstable();
        all
    }

    fn active_and_inactive(&self) -> (u64, u64) {
        self.counts_of(ServerId(2))
    }

    fn counts_of(&self, server: ServerId) -> (u64, u64) {
        let cells = || self.counters.iter().map(|worker| worker.server(server));
        (cells().map(|cell| cell.active.get()).sum(), cells().map(|cell| cell.inactive.get()).sum())
    }

    fn check(&self) {
        self.paths.iter().for_each(|path| assert_eq!(path.check_connections(), Ok(())));
    }
}

/// The service has the first real server alone, with such an upper threshold.
fn with_one_server(upper_threshold: u32) -> Tables {
    let tables = with(2, FTP);
    let services = tables.services.iter().map(|service| {
        let mut service = Service::clone(service);
        service.servers.retain(|server| server.id == ServerId(2));
        service.servers.iter_mut().for_each(|server| server.upper_threshold = upper_threshold);
        Arc::new(service)
    });
    let services = Services::new(services.collect::<Vec<_>>());
    Tables { services: services.into(), ..tables }
}

#[test]
fn a_control_connection_outlives_its_data_connections() {
    for workers in 1..5 {
        let mut site = Site::new(workers);
        site.open();
        site.waits_at(40000);
        site.comes(5000, 40000);
        for _ in 0..20 {
            site.pass(100);
            site.data(false, (5000, 40000), "A");
        }
        assert_eq!(site.listed(), [(4000, 8080), (5000, 40000)], "{workers} workers");
        let (told, from) = site.says(false, "A", "226 Transfer complete.\r\n");
        assert_eq!((told.as_str(), from), ("226 Transfer complete.\r\n", ip(SERVICE)));
        assert_eq!(site.says(true, "A", "QUIT\r\n").1, ip(CLIENT));
        // From its packets on it has its own time again.
        for (is_client, flags) in [(true, "FA"), (false, "FA"), (true, "A")] {
            site.data(is_client, (5000, 40000), flags);
        }
        site.pass(890);
        assert_eq!(site.listed(), [(4000, 8080)]);
        site.pass(80);
        assert_eq!((site.listed(), site.active_and_inactive()), (vec![], (0, 0)));
        site.check();
    }
}

#[test]
fn a_control_connection_outlives_what_its_server_opened_and_goes_a_minute_after_it() {
    let mut site = Site::new(3);
    site.open();
    site.says(true, "A", "PORT 192,0,2,100,195,80\r\n");
    for (is_client, flags) in [(false, "S"), (true, "SA"), (false, "A")] {
        site.data(is_client, (50000, 8079), flags);
    }
    for _ in 0..12 {
        site.pass(100);
        site.data(false, (50000, 8079), "A");
    }
    assert_eq!(site.listed(), [(4000, 8080), (50000, 8079)]);
    site.data(false, (50000, 8079), "R");
    site.pass(80);
    assert_eq!(site.listed(), [], "the time of the one was over long ago");
    site.check();
}

#[test]
fn a_control_connection_that_begins_anew_is_not_kept_by_what_the_one_before_told_of() {
    let mut site = Site::new(1);
    site.open();
    site.waits_at(40000);
    site.comes(5000, 40000);
    for (is_client, flags) in [(true, "FA"), (false, "FA"), (true, "A")] {
        site.says(is_client, flags, "");
    }
    site.sent = [1_000_000, 7_000_000, 7_000_000];
    site.open();
    site.pass(890);
    site.data(false, (5000, 40000), "A");
    assert_eq!(site.listed(), [(4000, 8080), (5000, 40000)]);
    site.pass(100);
    assert_eq!(site.listed(), [(5000, 40000)], "it has the place of the one before, and nothing of its");
    site.pass(1000);
    assert_eq!((site.listed(), site.active_and_inactive()), (vec![], (0, 0)));
    site.check();
}

#[test]
fn a_data_connection_that_has_begun_goes_on_without_its_control_connection() {
    for workers in 1..4 {
        let mut site = Site::of(workers, with_one_server(0));
        site.open();
        site.waits_at(40000);
        site.comes(5000, 40000);
        let control =
            Tuple { src: ip(CLIENT), dst: ip(SERVICE), sport: CONTROL, dport: 80, protocol: Protocol::TCP };
        let now = site.now;
        let end = |path: &mut Path<Frame>| path.order(&control, &Order::plain(Deed::End), now);
        assert_eq!(site.paths.iter_mut().map(end).filter(|outcome| *outcome == Outcome::Done).count(), 1);
        site.data(false, (5000, 40000), "A");
        site.sent = [1000, 7000, 7000];
        site.open();
        site.waits_at(40001);
        site.comes(5001, 40001);
        // What the first one told of ends, and takes nothing from the second one, which has its place.
        for (is_client, flags) in [(true, "FA"), (false, "FA"), (true, "A")] {
            site.data(is_client, (5000, 40000), flags);
        }
        for _ in 0..10 {
            site.pass(100);
            site.data(false, (5001, 40001), "A");
        }
        assert_eq!(site.listed(), [(4000, 8080), (5001, 40001)], "{workers} workers");
        site.pass(2000);
        assert_eq!((site.listed(), site.active_and_inactive()), (vec![], (0, 0)));
        site.check();
    }
}

#[test]
fn a_client_that_has_come_is_counted_and_listed_once() {
    for workers in 1..4 {
        let mut site = Site::of(workers, with_one_server(6));
        site.open();
        let is_full = |site: &Site| {
            let service = site.paths[0].tables.services.iter().find(|it| !it.servers.is_empty());
            service.expect("it has a server").servers[0].is_overloaded()
        };
        for (n, port) in (0..4).zip(40000..) {
            site.waits_at(port);
            assert_eq!(site.active_and_inactive(), (u64::from(n) + 1, 1), "who is awaited counts");
            site.comes(5000 + n, port);
            assert_eq!(site.active_and_inactive(), (u64::from(n) + 2, 0), "{workers} workers");
        }
        assert_eq!(site.listed(), [(4000, 8080), (5000, 40000), (5001, 40001), (5002, 40002), (5003, 40003)]);
        assert!(!is_full(&site), "five are not six");
        // It waits at a port of before once more.
        site.waits_at(40000);
        site.waits_at(40000);
        assert_eq!(site.active_and_inactive(), (5, 1));
        assert!(is_full(&site));
        site.comes(5004, 40000);
        site.comes(5005, 40000);
        assert_eq!((site.active_and_inactive(), site.listed().len()), ((7, 0), 7));
        site.pass(2000);
        assert_eq!((site.listed(), site.active_and_inactive()), (vec![], (0, 0)));
        site.check();
    }
}

#[test]
fn where_another_services_control_connection_tells_of_the_same_port_its_real_server_waits() {
    let tables = with_one_server(0);
    let first = tables.services.iter().find(|it| !it.servers.is_empty()).expect("one is").clone();
    let key = ServiceKey { port: 81, ..first.key };
    let server = Server { id: ServerId(5), port: 8081, ..first.servers[0].clone() };
    let mut second = Service::new(None, ServiceId(1), key, first.scheduler(), vec![server], 2);
    second.options = first.options;
    let services = Services::new([first, Arc::new(second)]);
    let mut site = Site::of(1, Tables { services: services.into(), ..tables });
    site.open();
    site.waits_at(40000);
    assert_eq!((site.counts_of(ServerId(2)), site.counts_of(ServerId(5))), ((1, 1), (0, 0)));
    (site.ends, site.sent) = ((4001, 81, 8081), [1000, 7000, 7000]);
    site.open();
    site.waits_at(40000);
    assert_eq!((site.counts_of(ServerId(2)), site.counts_of(ServerId(5))), ((1, 0), (1, 1)));
    site.comes(5000, 40000);
    assert_eq!((site.counts_of(ServerId(2)), site.counts_of(ServerId(5))), ((1, 0), (2, 0)));
    site.pass(2000);
    assert_eq!((site.counts_of(ServerId(2)), site.counts_of(ServerId(5))), ((0, 0), (0, 0)));
    site.check();
}

#[test]
fn a_data_connection_does_not_begin_anew() {
    let mut site = Site::new(1);
    site.open();
    site.waits_at(40000);
    site.comes(5000, 40000);
    for (is_client, flags) in [(true, "FA"), (false, "FA"), (true, "A"), (true, "S")] {
        site.data(is_client, (5000, 40000), flags);
    }
    let connections = site.counters[0].server(ServerId(2)).connections.get();
    assert_eq!((connections, site.listed()), (2, vec![(4000, 8080), (5000, 40000)]));
}
