//! Goal: what is saved and restored is what was there: each option of a service, and of a real server.
//!
//! Method: whatever the model takes is printed, by `lbctl services --save` and by `ipvsadm -S`, and read by `-R` into an empty
//! model. Both models are made by the same commands then.

use proptest::prelude::*;

use super::*;
use crate::api::types::{
    BatchReply, Connection, Failure, ForwardMethod, Persistence, QuicKey, QuicLb, ServerSpec, ServiceAddress,
    ServiceSpec, SyncDaemon, Timeouts, Tunnel,
};
use crate::model::{self, Limits, Model};

/// A director without packets, and how many batches it did.
struct InProcess(Model, usize);

impl InProcess {
    fn new() -> InProcess {
        InProcess(Model::new(Limits { services: 100, servers: 100 }), 0)
    }

    fn views(&self) -> Vec<ServiceView> {
        self.0.services().map(|service| model::service_view(service)).collect()
    }

    /// Services and their real servers, in no order of theirs.
    fn all(&self) -> Vec<(ServiceSpec, Vec<ServerSpec>)> {
        let sorted = |view: ServiceView| {
            let mut servers: Vec<_> = view.servers.into_iter().map(|server| server.spec).collect();
            servers.sort_by_key(|server| server.server);
            (view.spec, servers)
        };
        self.views().into_iter().map(sorted).collect()
    }
}

impl Director for InProcess {
    fn run(&mut self, batch: Batch) -> Result<BatchReply, DirectorError> {
        self.1 += 1;
        let mut reply = BatchReply::default();
        for (index, command) in batch.commands.iter().enumerate() {
            match self.0.apply(command) {
                Ok(_) => reply.done += 1,
                Err(error) => reply.failed.push(Failure { index, error }),
            }
        }
        Ok(reply)
    }

    fn services(&mut self, _: Option<ServiceAddress>) -> Result<Vec<ServiceView>, DirectorError> {
        Ok(self.views())
    }

    fn timeouts(&mut self) -> Result<Timeouts, DirectorError> {
        Ok(self.0.timeouts())
    }

    fn sync_daemons(&mut self) -> Result<Vec<SyncDaemon>, DirectorError> {
        Ok(Vec::new())
    }

    fn connections(
        &mut self,
        _: &ConnectionFilter,
        _: &mut dyn FnMut(Connection) -> io::Result<()>,
    ) -> Result<(), DirectorError> {
        Ok(())
    }
}

/// Exit code, output, errors.
fn ipvsadm(director: &mut InProcess, words: &[&str], input: &str) -> (u8, String, String) {
    called(run, director, words, input.as_bytes())
}

/// The same of `ipvsadm-restore`.
fn restore(director: &mut InProcess, input: &[u8]) -> (u8, String, String) {
    called(run_restore, director, &[], input)
}

fn called(
    program: impl FnOnce(&[String], &mut dyn Director, &mut Surroundings<'_>) -> u8,
    director: &mut InProcess,
    words: &[&str],
    mut input: &[u8],
) -> (u8, String, String) {
    let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let mut around =
        Surroundings { names: &System, input: &mut input, output: &mut output, errors: &mut errors };
    let code = program(&words, director, &mut around);
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (code, text(output), text(errors))
}

fn restored(lines: &str) -> InProcess {
    let mut director = InProcess::new();
    let done = ipvsadm(&mut director, &["-R"], lines);
    assert_eq!(done, (0, String::new(), String::new()), "{lines}");
    director
}

/// Both ways; returns what was saved whole.
fn check(director: &mut InProcess) -> String {
    let mut whole = Vec::new();
    save_all(&mut whole, director.views()).expect("memory");
    let whole = String::from_utf8(whole).expect("text");
    assert_eq!(restored(&whole).all(), director.all(), "{whole}");
    let (code, as_the_tool, _) = ipvsadm(director, &["-S", "-n"], "");
    assert_eq!(code, 0);
    // What the kernel's tool does not read either, or prints only half of.
    let is_odd = |view: &ServiceView| {
        matches!(view.spec.scheduler.as_str(), "sh" | "mh")
            && view.spec.scheduler_flags.contains(&"flag-3".to_owned())
    };
    if as_the_tool.contains("-f -") || director.views().iter().any(is_odd) {
        return whole;
    }
    let mut without_thresholds = director.all();
    for server in without_thresholds.iter_mut().flat_map(|(_, servers)| servers) {
        (server.upper_threshold, server.lower_threshold) = (0, 0);
    }
    assert_eq!(restored(&as_the_tool).all(), without_thresholds, "{as_the_tool}");
    whole
}

#[test]
fn a_whole_table_is_put_in_the_place_of_the_one_that_is_there_at_one_moment() {
    let old = "-A -t 192.0.2.1:80 -s rr\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -m -w 1\n-A -f 5 -s wlc\n";
    let new = "-A -t 192.0.2.1:80 -s wrr\n-a -t 192.0.2.1:80 -r 10.0.0.2:80 -m -w 1\n";
    let mut director = restored(old);
    let input = format!("#\n#-A -t 192.0.2.9:80 -s rr\n{new}#\n");
    let input = [b"# \xe4\n", input.as_bytes()].concat();
    assert_eq!(restore(&mut director, &input), (0, String::new(), String::new()));
    assert_eq!((check(&mut director).as_str(), director.1), (new, 2));
    // `-R` alone adds, and a comment is no line of it.
    let (code, _, errors) = ipvsadm(&mut director, &["-R"], old);
    assert_eq!((code, errors.as_str()), (0, "Service already exists\n"));
    assert_eq!(ipvsadm(&mut director, &["-R"], "# x\n").0, 255);
    assert_eq!(director.views().len(), 2);
    // What cannot be read ends it, when what was there is gone.
    assert_eq!(restore(&mut director, b"-A -t 192.0.2.7:80 -s rr\n-q\n-A -f 1 -s rr\n").0, 255);
    assert_eq!(check(&mut director), "-A -t 192.0.2.7:80 -s rr\n");
    assert_eq!(restore(&mut director, b""), (0, String::new(), String::new()));
    assert!(director.views().is_empty());
}

#[test]
fn a_line_that_asks_for_help_ends_a_restore_well() {
    for line in ["-v", "-h", "ipvsadm --version"] {
        let mut director = InProcess::new();
        let lines = format!("-A -f 1 -s rr\n-A -f 1 -s rr\n{line}\n-A -f 2 -s rr\n");
        let (code, output, errors) = ipvsadm(&mut director, &["-R"], &lines);
        assert_eq!((code, errors.as_str(), director.views().len()), (0, "Service already exists\n", 1));
        assert!(output.contains("ipvsadm"), "{line}: {output}");
    }
}

#[test]
fn schedulers_that_the_kernel_does_not_have_are_restored() {
    let lines = "-A -t 192.0.2.1:80 -s maglev -b maglev-port --table-size 65539 --warmup 30\n\
                 -A -t 192.0.2.2:80 -s twos\n-A -t 192.0.2.3:80 -s maglev\n";
    let mut director = restored(lines);
    assert_eq!(check(&mut director), lines);
    let service = director.0.find(&"tcp/192.0.2.1:80".parse().expect("valid")).expect("restored");
    assert_eq!((service.table_size, service.warmup, service.scheduler_flags.port()), (65539, 30, true));
}

#[test]
fn a_flag_without_a_word_is_kept_by_lbctl_alone() {
    let lines = "-A -t 192.0.2.1:80 -s sh -b sh-port,flag-3\n-A -t 192.0.2.2:80 -s mh -p 60 -b flag-3\n\
                 -A -t 192.0.2.3:80 -s rr -b flag-3\n";
    let mut director = restored(lines);
    assert_eq!(check(&mut director), lines);
    let listed = ipvsadm(&mut director, &["-L", "-n"], "").1;
    let listed: Vec<_> = listed.lines().filter(|line| line.starts_with("TCP")).collect();
    assert_eq!(
        listed,
        [
            "TCP  192.0.2.1:80 sh (sh-port)",
            "TCP  192.0.2.2:80 mh () persistent 60",
            "TCP  192.0.2.3:80 rr (flag-3)"
        ]
    );
    assert_eq!(
        ipvsadm(&mut director, &["-S", "-n"], "").1,
        "-A -t 192.0.2.1:80 -s sh -b sh-port\n-A -t 192.0.2.2:80 -s mh -p 60 -b \n\
         -A -t 192.0.2.3:80 -s rr -b flag-3\n"
    );
}

#[test]
fn what_is_asked_for_is_found_wrong_in_the_order_of_the_kernels_tool() {
    let mut director = restored("-A -t 192.0.2.1:80 -s rr\n");
    for (line, code, says) in [
        ("-A -t 192.0.2.1:80 -s twos", 255, "Service already exists"),
        ("-E -t 192.0.2.1:80 -s twos", 255, "Scheduler or persistence engine not found"),
        ("-A -t 192.0.2.2:80 -s twos", 255, "Scheduler or persistence engine not found"),
        ("-E -t 192.0.2.2:80 -s twos", 255, "No such service"),
        ("-A -t [192.0.2.7]:80", 2, "Zero port specified for non-persistent service"),
        ("-L -", 2, "unexpected argument -"),
        ("-", 255, "Try `ipvsadm -h' or 'ipvsadm --help' for more information."),
        ("-L -n=3", 255, "-n=3: option does not take an argument"),
        ("--start-daemon master --mcast-interface lo --mcast-group abc", 2, "invalid IPv4 mcast-group `abc'"),
        ("--start-daemon master --mcast-interface lo --mcast-group=", 2, "invalid IPv4 mcast-group `'"),
        ("--start-daemon master --mcast-interface lo --mcast-group x:y", 2, "invalid IPv6 mcast-group `x:y'"),
    ] {
        let words: Vec<_> = line.split(' ').collect();
        let (is, _, errors) = ipvsadm(&mut director, &words, "");
        assert_eq!((is, errors.trim_end()), (code, says), "{line}");
    }
}

#[test]
fn a_mask_before_an_ipv6_service_is_lost_and_no_engine_is_none() {
    let mut director = InProcess::new();
    for words in [
        &["-A", "-M", "64", "-t", "[2001:db8::1]:80", "-s", "rr", "-p", "60"][..],
        &["-A", "-f", "5", "-M", "255.255.0.0", "-6", "-s", "rr", "-p", "60"],
        &["-A", "-t", "[2001:db8::2]:80", "-s", "rr", "-p", "60", "-M", " +64x"],
        &["-A", "-t", "192.0.2.1 x:80", "-s", "rr", "-p", "60", "--pe", ""],
        &["-A", "-t", "[::1.2.3.4]:80", "-s", "rr"],
    ] {
        assert_eq!(ipvsadm(&mut director, words, ""), (0, String::new(), String::new()), "{words:?}");
    }
    assert_eq!(
        check(&mut director),
        "-A -t 192.0.2.1:80 -s rr -p 60\n-A -t [::1.2.3.4]:80 -s rr\n-A -t [2001:db8::1]:80 -s rr -p 60\n\
         -A -t [2001:db8::2]:80 -s rr -p 60 -M 64\n-A -f 5 -6 -s rr -p 60\n"
    );
}

#[test]
fn a_mark_is_saved_without_a_sign_by_lbctl_alone() {
    let mut director = restored("-A -f 4294967295 -s rr\n-A -f 2147483648 -6 -s rr\n");
    let mut whole = Vec::new();
    save_all(&mut whole, director.views()).expect("memory");
    let whole = String::from_utf8(whole).expect("text");
    assert!(whole.contains("-A -f 4294967295 -s rr\n"), "{whole}");
    assert_eq!(restored(&whole).all(), director.all());
    // The kernel's tool does not read what it prints: recorded.
    let (_, as_the_tool, _) = ipvsadm(&mut director, &["-S"], "");
    assert!(as_the_tool.contains("-A -f -1 -s rr\n"), "{as_the_tool}");
    let (code, _, errors) = ipvsadm(&mut InProcess::new(), &["-R"], "-A -f -1 -s rr\n");
    assert_eq!((code, errors.as_str()), (2, "invalid fwmark value `-1' specified\n"));
}

fn address() -> impl Strategy<Value = ServiceAddress> {
    const AT: &[&str] = &[
        "tcp/192.0.2.1:80",
        "tcp/192.0.2.1:21",
        "tcp/[2001:db8::/64]:0",
        "udp/192.0.2.0/24:53",
        "udp/[2001:db8::1]:443",
        "sctp/192.0.2.1:9",
    ];
    prop_oneof![
        3 => prop::sample::select(AT).prop_map(|text| text.parse().expect("valid")),
        1 => (prop::sample::select(vec![1, 7, i32::MAX as u32, u32::MAX]), any::<bool>())
            .prop_map(|(mark, is_ipv6)| ServiceAddress::FwMark { mark, is_ipv6 }),
    ]
}

fn one_of(values: &'static [&'static str]) -> impl Strategy<Value = Option<String>> {
    prop::option::weighted(0.3, prop::sample::select(values).prop_map(str::to_owned))
}

fn scheduler() -> impl Strategy<Value = (String, Vec<String>, Option<u32>, u32)> {
    let (name, flag) = (prop::sample::select(lb_core::ipvs::SchedulerKind::ALL), 0..3usize);
    (name, prop::option::of(flag), any::<bool>(), prop::sample::select(vec![0, 1, 3600])).prop_map(
        |(kind, flag, is_larger, warmup)| {
            let name = kind.name();
            let flags = match name {
                "sh" => ["sh-fallback", "sh-port", "flag-3"],
                "mh" => ["mh-fallback", "mh-port", "flag-3"],
                "maglev" => ["flag-1", "maglev-port", "flag-3"],
                _ => ["flag-1", "flag-2", "flag-3"],
            };
            let size = (name == "maglev").then_some(if is_larger { 65539 } else { 65537 });
            let flags = flag.map(|flag| flags[flag].to_owned()).into_iter().collect();
            (name.to_owned(), flags, size, warmup)
        },
    )
}

fn service() -> impl Strategy<Value = ServiceSpec> {
    let persistence = prop::option::of((
        prop::sample::select(vec![1, 360, 2_678_400]),
        one_of(&["255.255.255.0", "0.0.0.24", "64", "1"]),
    ));
    let texts = (
        one_of(&["v1", "v2"]),
        one_of(&["on", "auto", "auto:5"]),
        one_of(&["ftp"]),
        one_of(&["5", "5:9"]),
        one_of(&["7", "7:10000000"]),
        one_of(&["sip"]),
    );
    let numbers = (
        prop::sample::select(vec![0, 1, 16_000_000]),
        prop::sample::select(vec![0, 3]),
        prop::sample::select(vec![None, None, Some(24)]),
    );
    let lists = (
        prop::sample::select(vec![vec![], vec!["10.0.0.9"], vec!["fd00::9", "10.0.0.9"]]),
        prop::sample::select(vec![0, 0, 1, 2]),
    );
    (address(), scheduler(), persistence, texts, numbers, lists, any::<[bool; 3]>()).prop_map(
        |(
            service,
            (name, scheduler_flags, table_size, warmup),
            persistence,
            texts,
            numbers,
            lists,
            flags,
        )| {
            let quic = |config_id| QuicLb {
                config_id,
                server_id_length: config_id + 1,
                nonce_length: 8,
                key: (config_id == 1).then(|| QuicKey("0f".repeat(16))),
            };
            ServiceSpec {
                scheduler_flags,
                table_size,
                warmup,
                persistence: persistence.map(|(timeout, netmask)| Persistence { timeout, netmask }),
                proxy_protocol: texts.0,
                syn_cookies: texts.1,
                helper: texts.2,
                conn_rate: texts.3,
                source_conn_rate: texts.4,
                persistence_engine: texts.5,
                conn_limit: numbers.0,
                source_conn_limit: numbers.1,
                source_prefix: numbers.2,
                local_addresses: lists.0.iter().map(|address| address.parse().expect("valid")).collect(),
                quic_lb: (0..lists.1).map(quic).collect(),
                one_packet: flags[0],
                toa: flags[1],
                clamp_mss: flags[2],
                ..ServiceSpec::new(service, &name)
            }
        },
    )
}

fn tunnel() -> impl Strategy<Value = Option<Tunnel>> {
    let kind = prop::sample::select(vec![("ipip", 0), ("gue", 6080), ("gre", 0)]);
    let checksum = prop::sample::select(vec!["none", "checksum", "remote"]);
    prop::option::weighted(
        0.8,
        (kind, checksum).prop_map(|((encapsulation, port), checksum)| Tunnel {
            encapsulation: encapsulation.to_owned(),
            port,
            checksum: Some(checksum.to_owned()),
        }),
    )
}

fn server() -> impl Strategy<Value = ServerSpec> {
    const AT: &[&str] =
        &["10.0.0.1:80", "10.0.0.2:8080", "10.0.0.3:0", "10.0.0.4:53", "[fd00::1]:443", "[fd00::2]:0"];
    let forward = [ForwardMethod::Masq, ForwardMethod::Direct, ForwardMethod::Tunnel, ForwardMethod::FullNat];
    (
        prop::sample::select(AT),
        prop::sample::select(forward.to_vec()),
        tunnel(),
        prop::sample::select(vec![0, 1, model::MAX_WEIGHT]),
        prop::sample::select(vec![(0, 0), (10, 0), (10, 10), (u32::MAX >> 1, 3)]),
        prop::sample::select(vec![vec![], vec!["0a"], vec!["0b0c", "0d"]]),
    )
        .prop_map(|(at, forward, tunnel, weight, (upper_threshold, lower_threshold), ids)| ServerSpec {
            weight,
            forward,
            tunnel: tunnel.filter(|_| forward == ForwardMethod::Tunnel),
            upper_threshold,
            lower_threshold,
            quic_server_ids: ids.into_iter().map(str::to_owned).collect(),
            ..ServerSpec::new(at.parse().expect("valid"))
        })
}

/// What may go with a service of this kind, so that most are taken.
fn fitting(mut spec: ServiceSpec) -> ServiceSpec {
    let text = spec.service.to_string();
    let is_mark = matches!(spec.service, ServiceAddress::FwMark { .. });
    if !(is_mark || text.starts_with("tcp")) {
        (spec.proxy_protocol, spec.syn_cookies, spec.helper) = (None, None, None);
        (spec.toa, spec.clamp_mss) = (false, false);
    }
    if !(is_mark || text.starts_with("udp")) {
        spec.one_packet = false;
        spec.quic_lb.clear();
    }
    if spec.source_conn_limit == 0 && spec.source_conn_rate.is_none() {
        spec.source_prefix = None;
    }
    let is_ipv6 = spec.service.is_ipv6();
    if let Some(persistence) = &mut spec.persistence {
        persistence.netmask = persistence.netmask.take().filter(|mask| mask.contains('.') != is_ipv6);
    }
    spec
}

proptest! {
    #[test]
    fn each_option_of_a_service_and_a_real_server_is_restored(
        services in prop::collection::vec((service(), prop::collection::vec(server(), 0..4)), 1..6),
    ) {
        let mut director = InProcess::new();
        for (spec, servers) in services {
            let service = spec.service;
            let _ = director.0.apply(&Command::AddService(fitting(spec)));
            for mut server in servers {
                if !server.forward.changes_port() && !matches!(service, ServiceAddress::FwMark { .. }) {
                    server.server.set_port(service.port());
                }
                // What does not go together is refused.
                let _ = director.0.apply(&Command::AddServer { service, server });
            }
        }
        check(&mut director);
    }
}
