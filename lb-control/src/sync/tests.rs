//! From the workers of one director to those of another, but for the wire.

use std::net::IpAddr;

use lb_core::flow::edit::Edit;
use lb_core::flow::template::of_call;
use lb_core::flow::{Method, Tuple};
use lb_core::ids::ServerId;
use lb_core::path::SharedFlow;
use lb_core::tables::Protocol;
use lb_core::time::Timeout;
use proptest::prelude::*;
use tokio::runtime::Builder;

use super::message::{Audience, Message, Record, Sequence, Writer, flags};
use super::*;
use crate::daemon::fake::{self, FakePlane};

const SERVICES: &str = r#"
[[virtual_service]]
address = "192.0.2.1:80"
real_servers = [{ address = "10.0.0.1:8080" }, { address = "10.0.0.2:8080" }]
[[virtual_service]]
address = "[2001:db8::1]:53"
protocol = "udp"
real_servers = [{ address = "[2001:db8::11]:53" }]
[[virtual_service]]
address = "192.0.2.2:0"
persistence = 60
real_servers = [{ address = "10.0.0.5:0" }]
"#;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn flow(protocol: Protocol, addresses: [IpAddr; 3], ports: [u16; 3]) -> SharedFlow {
    let [src, dst, server] = addresses;
    let [sport, dport, port] = ports;
    SharedFlow {
        original: Tuple { src, dst, sport, dport, protocol },
        is_template: false,
        is_past: false,
        server: (server, port),
        local: (src, sport),
        mark: 0,
        method: Method::Masq,
        state: u8::from(protocol == Protocol::TCP),
        is_active: protocol == Protocol::TCP,
        timeout: Timeout::from_secs(900),
        is_hearsay: false,
        edit: None,
    }
}

fn tcp(server: &str) -> SharedFlow {
    let addresses = [ip("198.51.100.7"), ip("192.0.2.1"), ip(server)];
    flow(Protocol::TCP, addresses, [4000, 80, 8080])
}

/// What a backup's workers are given of this message.
fn given(
    plane: &FakePlane,
    wanted: &Wanted,
    message: &[u8],
    counters: &SyncCounters,
) -> Vec<(SharedFlow, ServerId)> {
    let Ok(Message::Connections(all)) = Message::read(message) else { panic!("{message:?}") };
    let mut servers = backup::Servers::default();
    servers.follow(wanted.tables.clone());
    let taken = backup::take(all, &mut servers, plane, counters);
    Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(taken);
    std::mem::take(&mut plane.given.lock().expect("not poisoned"))
}

fn message(records: &[Record<'_>]) -> Vec<u8> {
    let mut writer = Writer::new(Audience::Own, 0, 60_000);
    records.iter().for_each(|record| assert!(writer.add(record)));
    writer.message(<[u8]>::to_vec).expect("something")
}

#[test]
fn a_connection_comes_to_the_real_server_that_it_had() {
    let (control, plane, _) = fake::start(SERVICES);
    let (wanted, counters) = (control.sync().0.borrow().clone(), SyncCounters::default());
    let udp = flow(Protocol::UDP, [ip("2001:db8::7"), ip("2001:db8::1"), ip("2001:db8::11")], [5000, 53, 53]);
    // Of a service of every port: a connection to one of them, and its client's template.
    let (every, its) = ([ip("198.51.100.7"), ip("192.0.2.2"), ip("10.0.0.5")], [4000, 443, 443]);
    let template =
        SharedFlow { is_template: true, is_active: false, ..flow(Protocol::TCP, every, [0, 0, 0]) };
    let told = [
        tcp("10.0.0.2"),
        SharedFlow { is_hearsay: true, ..udp },
        tcp("10.0.0.1"),
        flow(Protocol::TCP, every, its),
        template,
    ];
    let records: Vec<_> =
        told.iter().map(|flow| master::record(flow, &Tables::default()).expect("one family")).collect();
    let id = |flow: &SharedFlow| {
        let mut servers = control.model().services().flat_map(|service| &service.servers);
        servers.find(|server| server.address == flow.server.0).expect("there").id
    };
    let expected: Vec<_> = told.iter().map(|flow| (*flow, id(flow))).collect();
    assert_eq!(given(&plane, &wanted, &message(&records), &counters), expected);
    assert_eq!(counters.connections_given.into_inner(), 5);
}

#[test]
fn what_is_not_here_is_counted_and_the_rest_goes_on() {
    let (control, plane, _) = fake::start(SERVICES);
    let (wanted, counters) = (control.sync().0.borrow().clone(), SyncCounters::default());
    let right = master::record(&tcp("10.0.0.1"), &Tables::default()).expect("one family");
    let records = [
        master::record(&tcp("10.0.0.9"), &Tables::default()).expect("one family"),
        Record { virtual_: "192.0.2.9:80".parse().expect("valid"), ..right },
        Record { state: 11, ..right },
        Record { state: 257, ..right },
        Record { protocol: Protocol::GRE, ..right },
        Record { timeout: 0, state: 4, ..right },
    ];
    let given = given(&plane, &wanted, &message(&records), &counters);
    assert_eq!(given.len(), 1);
    assert_eq!(given[0].0.timeout, Timeout::from_secs(120), "our own for FIN_WAIT");
    let counts = [counters.no_server, counters.unknown, counters.connections_received];
    assert_eq!(counts.map(AtomicU64::into_inner), [2, 3, 6]);
}

#[test]
fn real_servers_are_those_of_the_newest_tables() {
    let (control, ..) = fake::start(SERVICES);
    let before = control.sync().0.borrow().tables.clone();
    let (control, ..) = fake::start(&SERVICES.replace("10.0.0.2", "10.0.0.3"));
    let after = control.sync().0.borrow().tables.clone();
    let mut servers = backup::Servers::default();
    servers.follow(before);
    assert!(servers.find(&tcp("10.0.0.2")).is_some() && servers.find(&tcp("10.0.0.3")).is_none());
    servers.follow(after);
    assert!(servers.find(&tcp("10.0.0.2")).is_none() && servers.find(&tcp("10.0.0.3")).is_some());
}

#[test]
fn daemons_follow_the_model_and_workers_share_while_there_is_one() {
    use crate::api::types::{Batch, Command, ErrorKind, OnError};
    let (mut control, plane, _) = fake::start(SERVICES);
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (wanted, state) = control.sync();
        let life = tokio::spawn(run(wanted, plane.clone(), state));
        let mut batch = |commands: Vec<Command>, on_error| {
            let count = commands.len();
            let reply = control.batch(&Batch { commands, on_error });
            let failed: Vec<_> =
                reply.failed.iter().map(|failure| (failure.index, failure.error.error)).collect();
            assert!(reply.done == count - failed.len() || on_error == OnError::Rollback);
            failed
        };
        let start = |interface| Command::StartSync(SyncDaemon::new(SyncRole::Backup, interface));
        let until_sharing = async |is: bool| {
            while plane.is_sharing.load(std::sync::atomic::Ordering::Relaxed) != is {
                tokio::task::yield_now().await;
            }
        };
        until_sharing(false).await;
        let missing = (1, ErrorKind::NoSuchDevice);
        assert_eq!(batch(vec![Command::Flush, start("nosuch0")], OnError::Rollback), [missing]);
        let commands = vec![start("eth0"), start("nosuch0"), start("eth0"), Command::Flush];
        assert_eq!(batch(commands, OnError::Continue), [missing, (2, ErrorKind::SyncRuns)]);
        until_sharing(true).await;
        assert!(batch(vec![Command::StopSync { role: SyncRole::Backup }], OnError::Continue).is_empty());
        until_sharing(false).await;
        drop(control);
        life.await.expect("it ends with the control task");
    });
}

#[test]
fn an_interface_that_cannot_be_used_is_a_problem_until_it_can() {
    let (state, daemon) = (SyncState::default(), SyncDaemon::new(SyncRole::Master, "eth0"));
    state.set_problem(&daemon, Some(&std::io::Error::other("no such device")));
    assert_eq!(state.problem(SyncRole::Master).as_deref(), Some("sync master on eth0: no such device"));
    assert_eq!(state.problem(SyncRole::Backup), None);
    state.set_problem(&daemon, None);
    assert_eq!(state.problem(SyncRole::Master), None);
}

#[test]
fn a_walk_that_nobody_waits_for_is_spread_over_its_time() {
    let plane = FakePlane::new(2);
    let refresh = Duration::from_secs(10);
    plane.workers[1].flows.entries.set(1_000_000);
    // 2000 ticks, at twice the pace.
    assert_eq!(master::pace(false, refresh, &*plane), 1000);
    assert_eq!(master::pace(true, refresh, &*plane), 2048);
    plane.workers[1].flows.entries.set(0);
    assert_eq!(master::pace(false, refresh, &*plane), 256);
}

proptest! {
    #[test]
    fn what_workers_tell_is_what_workers_are_given(
        ends in any::<bool>().prop_flat_map(|is_ipv6| {
            prop::array::uniform3(any::<u128>()).prop_map(move |numbers| numbers.map(|number| {
                if is_ipv6 { IpAddr::from(number.to_be_bytes()) } else { IpAddr::from((number as u32).to_be_bytes()) }
            }))
        }),
        ports in any::<[u16; 3]>(),
        (is_tcp, state, mark, is_active, is_hearsay, is_template) in any::<(bool, u8, u32, bool, bool, bool)>(),
        method in prop_oneof![Just(Method::Masq), Just(Method::Direct), Just(Method::Tunnel)],
        timeout in 1..=Timeout::MAX_SECS,
        (behind, is_edited, is_past) in (prop::option::of(any::<(u32, u16)>()), any::<bool>(), any::<bool>()),
        sequences in any::<[[u32; 3]; 2]>(),
    ) {
        let protocol = if is_tcp { Protocol::TCP } else { Protocol::UDP };
        let told = SharedFlow {
            method,
            is_template,
            mark,
            state: if is_tcp { state % 11 } else { 0 },
            is_active,
            timeout: Timeout::from_secs(timeout),
            is_hearsay,
            edit: Edit::of_kernels_ftp(sequences.map(|[from, before, by]| [from, before.wrapping_add(by % 256), before]))
                .filter(|_| is_edited && is_tcp && !is_template),
            ..flow(protocol, ends, ports)
        };
        let original = told.original;
        // A local endpoint, or a call's client, behind which the digest stands.
        let told = match behind.map(|(address, port)| (ip("10.0.0.1"), address, port)) {
            None if is_template => SharedFlow { original: Tuple { sport: 0, ..original }, local: (original.src, 0), ..told },
            None => told,
            Some((local, _, port)) if !is_template => SharedFlow { local: (local, port), ..told },
            Some((_, address, _)) => {
                let client = if original.src.is_ipv6() { original.src } else { IpAddr::from(address.to_be_bytes()) };
                let original = Tuple { sport: original.sport.max(1), ..original };
                SharedFlow { original, local: (client, 0), ..told }
            }
        };
        let goes_past = told.method == Method::Direct && !is_template && behind.is_none() && told.edit.is_none();
        let told = match goes_past && is_past {
            true => SharedFlow { is_past, server: (original.dst, original.dport), ..told },
            false => told,
        };
        let record = master::record(&told, &Tables::default()).expect("one family");
        prop_assert_eq!(backup::flow(&record, &lb_core::tables::Settings::default()), Some(told));
    }
}

#[test]
fn a_connection_is_told_of_twice_in_the_shortest_timeout() {
    let refresh = |udp, sync_refresh_period| {
        let mut settings = Settings { udp: Timeout::from_secs(udp), ..Settings::default() };
        settings.sysctls.sync_refresh_period = sync_refresh_period;
        super::refresh(&settings).as_secs()
    };
    assert_eq!([300, 20, 7, 1].map(|udp| refresh(udp, 10)), [10, 10, 3, 1]);
    assert_eq!((refresh(300, 0), refresh(300, 100)), (1, 60), "half of the 120 s after a FIN");
}

#[test]
fn a_connection_past_all_real_servers_is_told_as_the_kernel_does_and_comes_to_none() {
    let (control, plane, _) = fake::start("");
    let (wanted, counters) = (control.sync().0.borrow().clone(), SyncCounters::default());
    for [client, site, nowhere] in
        [["198.51.100.7", "203.0.113.9", "0.0.0.0"], ["2001:db8::7", "2001:db8:1::9", "::"]]
            .map(|all| all.map(ip))
    {
        let told = SharedFlow {
            is_past: true,
            method: Method::Direct,
            ..flow(Protocol::TCP, [client, site, site], [4000, 80, 80])
        };
        // Whatever there is of templates: it has none.
        let mut tables = Tables::default();
        tables.settings.sysctls.sync_persist_mode = 1;
        let record = master::record(&told, &tables).expect("it is told of");
        assert_eq!((record.flags & flags::METHOD, record.server), (4, (nowhere, 0).into()));
        assert_eq!(record.audience(), Audience::All);
        assert_eq!(given(&plane, &wanted, &message(&[record]), &counters), [(told, ServerId::BYPASS)]);
        let template = Record { flags: flags::BYPASS | flags::TEMPLATE, ..record };
        assert_eq!(given(&plane, &wanted, &message(&[template]), &counters), [], "there is no such template");
    }
}

const MARKED: &str = r#"
[[mark]]
mark = 7
destination = "192.0.2.9/32"
[[virtual_service]]
fwmark = 7
persistence = 60
real_servers = [{ address = "10.0.0.1:8080" }]
[[virtual_service]]
fwmark = 8
real_servers = [{ address = "10.0.0.1:8080" }]
"#;

#[test]
fn a_connection_by_mark_is_told_with_it_and_comes_to_the_service_of_the_mark() {
    let (control, plane, _) = fake::start(MARKED);
    let (wanted, counters) = (control.sync().0.borrow().clone(), SyncCounters::default());
    let addresses = [ip("198.51.100.7"), ip("192.0.2.9"), ip("10.0.0.1")];
    let told = SharedFlow { mark: 7, ..flow(Protocol::TCP, addresses, [4000, 80, 8080]) };
    let record = master::record(&told, &wanted.tables);
    let record = record.expect("one family");
    assert_eq!(record.fwmark, 7);
    // By 8 where our own rules say 7, as the teller has others.
    let told = [record, Record { fwmark: 8, ..record }, Record { fwmark: 9, ..record }];
    let ids: Vec<_> =
        given(&plane, &wanted, &message(&told), &counters).iter().map(|given| given.1).collect();
    let id = |mark| {
        let mut services = control.model().services();
        services.find(|service| service.key.mark() == Some(mark)).expect("there").servers[0].id
    };
    assert_eq!(ids, [id(7), id(8), id(7)], "a mark that is not here leaves it to our rules");
}

#[test]
fn of_a_persistent_service_the_templates_alone_are_told_when_that_is_wanted() {
    let (mut control, ..) = fake::start(&format!("{MARKED}[sysctl]\nsync_persist_mode = 1\n{SERVICES}"));
    let addresses = [ip("198.51.100.7"), ip("192.0.2.9"), ip("10.0.0.1")];
    let persistent = SharedFlow { mark: 7, ..flow(Protocol::TCP, addresses, [4000, 80, 8080]) };
    let of_any = |protocol| SharedFlow {
        mark: 7,
        ..flow(protocol, [addresses[0], ip("0.0.0.7"), addresses[2]], [0, 0, 8080])
    };
    let template = SharedFlow { is_template: true, ..of_any(Protocol::ANY) };
    let told = |control: &crate::daemon::Control| {
        let tables = control.sync().0.borrow().tables.clone();
        [persistent, template, tcp("10.0.0.1")]
            .map(|flow| master::record(&flow, &tables).map(|record| record.fwmark))
    };
    assert_eq!(told(&control), [None, Some(7), Some(0)]);
    let off = crate::api::types::SysctlValue { name: "sync_persist_mode".into(), value: 0 };
    let batch = crate::api::types::Batch {
        commands: vec![crate::api::types::Command::SetSysctl(off)],
        on_error: Default::default(),
    };
    assert_eq!(control.batch(&batch).failed.len(), 0);
    assert_eq!(told(&control), [Some(7), Some(7), Some(0)]);
}

const CALLS: &str = r#"
[[virtual_service]]
address = "192.0.2.1:5060"
protocol = "udp"
persistence = 60
persistence_engine = "sip"
real_servers = [{ address = "10.0.0.1:5060" }]
"#;

#[test]
fn a_calls_template_is_told_by_its_digest_and_heard_by_its_call_id() {
    let (control, plane, _) = fake::start(CALLS);
    let (wanted, counters) = (control.sync().0.borrow().clone(), SyncCounters::default());
    let addresses = [ip("198.51.100.7"), ip("192.0.2.1"), ip("10.0.0.1")];
    let (src, sport) = of_call(addresses[0], b"a84b4c@pc33.example.com");
    let of_client = flow(Protocol::UDP, addresses, [0, 5060, 5060]);
    let original = Tuple { src, sport, ..of_client.original };
    let told = SharedFlow { original, is_template: true, ..of_client };
    let record = master::record(&told, &wanted.tables).expect("it is told of");
    assert_eq!(
        (record.client.ip(), record.client.port(), record.engine_name),
        (addresses[0], 0, &b"sip"[..])
    );
    // As the kernel says it, whose engine keeps the text.
    let kernels = Record { call: None, engine_data: b"a84b4c@pc33.example.com", ..record };
    let others = Record { engine_name: b"other", ..kernels };
    let given = given(&plane, &wanted, &message(&[record, kernels, others]), &counters);
    assert_eq!(given.iter().map(|given| given.0).collect::<Vec<_>>(), [told, told]);
    assert_eq!(counters.unknown.into_inner(), 1, "another engine's");
}

const FTP: &str = r#"
[[virtual_service]]
address = "192.0.2.1:21"
helper = "ftp"
real_servers = [{ address = "10.0.0.1:2121" }]
"#;

/// A kernel's director whose helper has put five bytes more into an answer.
#[test]
fn sequence_numbers_that_the_kernel_tells_are_those_of_an_ftp_control_connection() {
    let (control, plane, _) = fake::start(FTP);
    let (wanted, counters) = (control.sync().0.borrow().clone(), SyncCounters::default());
    let addresses = [ip("198.51.100.7"), ip("192.0.2.1"), ip("10.0.0.1")];
    let control_connection = flow(Protocol::TCP, addresses, [4000, 21, 2121]);
    let record = master::record(&control_connection, &wanted.tables).expect("it is told of");
    let sequences = [Sequence::default(), Sequence { from: 1000, delta: 5, delta_before: 0 }];
    // Where no flag says so, there may be anything.
    let kernels = [Sequence { from: 1, delta: 2, delta_before: 3 }, sequences[1]];
    let moved =
        Record { sequences: Some(kernels), flags: record.flags | flags::SEQUENCES_FROM_SERVER, ..record };
    let too_far = Sequence { from: 1000, delta: 500, delta_before: 0 };
    let data = flow(Protocol::TCP, addresses, [4001, 40_000, 40_000]);
    let data = master::record(&data, &wanted.tables).expect("it is told of");
    let told = [record, moved, Record { sequences: Some([too_far; 2]), ..moved }, data];
    let given = given(&plane, &wanted, &message(&told), &counters);
    let edits: Vec<_> = given.iter().map(|(flow, _)| flow.edit).collect();
    let edit = Edit::of_kernels_ftp([[0; 3], [1000, 5, 0]]);
    assert_eq!(edits, [None, edit, None], "and its data connection");
    assert_eq!(counters.unknown.into_inner(), 1, "no edit is so long");
    // Told on, the kernel would read what it wrote.
    let told = SharedFlow { edit, ..control_connection };
    let again = master::record(&told, &wanted.tables).expect("it is told of");
    assert_eq!((again.flags, again.sequences), (moved.flags, Some(sequences)));
}
