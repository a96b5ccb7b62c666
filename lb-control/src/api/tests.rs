//! The API over a real UNIX socket, byte by byte, with a fake data plane behind it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use lb_core::ids::PortId;
use lb_core::packet::Frame;
use lb_core::path::Assumed;
use lb_core::probe::Probe;
use lb_core::tables::{Interface, Interfaces, Protocol, Tables};
use lb_core::time::Tick;
use lb_core::trace::Trace;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::{http, server};
use crate::compile::Network;
use crate::daemon::Control;
use crate::daemon::fake::{self, FakePlane};

const SERVICE: &str = r#"
[[virtual_service]]
address = "192.0.2.1:80"
scheduler = "rr"
real_servers = [{ address = "10.0.0.1" }]
"#;

/// A daemon on a socket of its own; it ends with this value.
struct Bench {
    path: PathBuf,
    plane: Arc<FakePlane>,
    stop: watch::Sender<bool>,
    server: tokio::task::JoinHandle<()>,
}

impl Bench {
    fn start() -> Bench {
        let (control, plane, _) = fake::start(SERVICE);
        Bench::of(control, plane)
    }

    /// With an interface.
    fn with_wan() -> Bench {
        let (mut control, plane, _) = fake::start(SERVICE);
        let interface = Interface {
            name: "wan".to_owned(),
            port: PortId(0),
            vlan: 0,
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            outside: true,
            group: 0,
            ipv4: None,
            ipv6: None,
        };
        let interfaces = Arc::new(Interfaces::new(vec![interface]));
        control.use_network(&Network { interfaces, ..Network::default() });
        Bench::of(control, plane)
    }

    fn of(control: Control, plane: Arc<FakePlane>) -> Bench {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("lb-api-{}-{}.sock", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        let router = server::unix_router(control.spawn(), plane.clone());
        let (stop, stopped) = watch::channel(false);
        let listener = UnixListener::bind(&path).expect("free");
        let server = tokio::spawn(http::serve(listener, router, stopped));
        Bench { path, plane, stop, server }
    }

    /// Sends bytes; the status and the body of the answer.
    async fn send(&self, request: &[u8]) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.path).await.expect("a daemon");
        // A daemon that refuses may close before it has read all.
        let _ = stream.write_all(request).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("an answer");
        let answer = String::from_utf8(answer).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
        let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        (status, if is_chunked { unchunk(body) } else { body.to_owned() })
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: lb\r\n\r\n").as_bytes()).await
    }

    async fn post(&self, body: &str) -> (u16, String) {
        let length = body.len();
        self.send(
            format!("POST /v1/commands HTTP/1.1\r\nhost: lb\r\ncontent-length: {length}\r\n\r\n{body}")
                .as_bytes(),
        )
        .await
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    loop {
        let (length, rest) = body.split_once("\r\n").expect("a chunk");
        let length = usize::from_str_radix(length, 16).expect("a length");
        if length == 0 {
            return whole;
        }
        whole.push_str(&rest[..length]);
        body = &rest[length + 2..];
    }
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_change_the_tables_and_are_listed() {
    let bench = Bench::start();
    let (status, reply) = bench
        .post(r#"{"commands": [{"add_server": {"service": "tcp/192.0.2.1:80", "server": {"server": "10.0.0.2:80"}}},
                                {"delete_service": {"service": "tcp/192.0.2.9:80"}}]}"#)
        .await;
    let reply = json(&reply);
    assert_eq!((status, reply["done"].as_u64()), (200, Some(1)));
    assert_eq!(reply["failed"][0]["index"], 1);
    assert_eq!(reply["failed"][0]["error"], "no_such_service");
    let (status, services) = bench.get("/v1/services?service=tcp/192.0.2.1:80").await;
    assert_eq!(status, 200);
    let servers = json(&services)["services"][0]["servers"].as_array().expect("a list").len();
    assert_eq!((servers, bench.plane.publications()), (2, 2));
    assert_eq!(bench.get("/v1/services").await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_documented_path_answers() {
    let bench = Bench::start();
    for path in ["timeouts", "sysctl", "status", "ports", "workers", "drops", "openapi.json", "services"] {
        let (status, body) = bench.get(&format!("/v1/{path}")).await;
        assert_eq!(status, 200, "{path}: {body}");
        json(&body);
    }
    assert_eq!(bench.get("/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(bench.get("/readyz").await, (200, "ready\n".to_owned()));
    let (status, metrics) = bench.get("/metrics").await;
    assert!(status == 200 && metrics.contains("\nlb_build_info{"), "{metrics}");
    assert!(bench.get("/").await.1.contains("lbd"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_explanation_says_that_there_is_such_a_connection() {
    let bench = Bench::with_wan();
    let before = bench.plane.publications();
    let explain = async |body: &str| {
        let length = body.len();
        let head = "POST /v1/explain HTTP/1.1\r\nhost: lb\r\ncontent-length";
        bench.send(format!("{head}: {length}\r\n\r\n{body}").as_bytes()).await
    };
    let (status, body) = explain(r#"{"interface": "wan"}"#).await;
    assert_eq!((status, json(&body)["error"].as_str()), (400, Some("bad_request")));
    let asked = r#"{"interface": "wan", "protocol": "tcp", "source": "11.0.0.2", "destination": "192.0.2.1", "source_port": 80, "destination_port": 80}"#;
    for (flows, state) in [(0, None), (100, Some("ESTABLISHED"))] {
        bench.plane.flows.store(flows, Relaxed);
        let (status, body) = explain(asked).await;
        assert_eq!(status, 200, "{body}");
        assert_eq!(json(&body)["existing"]["state"].as_str(), state);
        assert_eq!(json(&body)["road"]["packet"]["flags"][0], "SYN");
    }
    assert_eq!(bench.plane.publications(), before, "nothing changes");
}

/// Has a trace keep the road of a packet, as a worker does.
fn watch(trace: &Trace, sport: u16) {
    let probe = Probe {
        src: [192, 0, 2, 100].into(),
        dst: [192, 0, 2, 1].into(),
        protocol: Protocol::TCP,
        sport,
        dport: 80,
        tcp_flags: 2,
        icmp: (0, 0),
        ttl: 64,
        data: 0,
    };
    let frame = Frame::new(PortId(0), &probe.frame([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], 0));
    let road = lb_core::path::explain(&Tables::default(), &[], frame, false, Assumed::First, Tick(0));
    trace.keep(road.expect("it needs no connection"), Tick(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_tells_roads_until_it_is_over_and_leaves_the_workers() {
    let bench = Bench::with_wan();
    for wrong in
        ["input=wlan", "source=nonsense", "protocol=no", "count=0", "rate=1001", "seconds=0", "sorce=::1"]
    {
        let (status, body) = bench.get(&format!("/v1/trace?{wrong}")).await;
        assert_eq!((status, json(&body)["error"].as_str()), (400, Some("bad_request")), "{wrong}");
    }
    assert!(bench.plane.tables().trace.is_none(), "nothing was begun");
    let reader = async {
        let query = "input=wan&protocol=tcp&source=192.0.2.0%2F24&destination_port=80&count=2";
        bench.get(&format!("/v1/trace?{query}")).await
    };
    let worker = async {
        let trace = loop {
            if let Some(trace) = bench.plane.tables().trace.clone() {
                break trace;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(bench.get("/v1/trace").await.0, 503, "one at a time");
        watch(&trace, 4000);
        watch(&trace, 4001);
    };
    let ((status, body), ()) = tokio::join!(reader, worker);
    assert_eq!(status, 200);
    let roads: Vec<serde_json::Value> = body.lines().filter(|line| !line.is_empty()).map(json).collect();
    assert_eq!(roads.len(), 2, "{body}");
    assert_eq!(roads[1]["road"]["packet"]["ports"][0], 4001);
    while bench.plane.tables().trace.is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_ends_when_its_reader_goes_away() {
    let bench = Bench::with_wan();
    let mut stream = UnixStream::connect(&bench.path).await.expect("a daemon");
    let request = b"GET /v1/trace?seconds=3600 HTTP/1.1\r\nhost: lb\r\n\r\n";
    stream.write_all(request).await.expect("it listens");
    while bench.plane.tables().trace.is_none() {
        tokio::task::yield_now().await;
    }
    drop(stream);
    while bench.plane.tables().trace.is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_names_the_reason_with_status_503() {
    let bench = Bench::start();
    bench.plane.workers[1].turns.generation.set(0);
    let (status, body) = bench.get("/readyz").await;
    assert_eq!((status, body.as_str()), (503, "worker 1 uses tables 0, published are 2\n"));
    bench.plane.workers[1].turns.generation.set(2);
    bench.plane.is_carrying_over.store(true, Relaxed);
    let carrying_over = "the connections of the run before are being carried over\n";
    assert_eq!(bench.get("/readyz").await, (503, carrying_over.to_owned()));
    bench.plane.is_carrying_over.store(false, Relaxed);
    assert_eq!(bench.get("/readyz").await, (200, "ready\n".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_refused_with_a_reason() {
    let bench = Bench::start();
    for (path, status, error) in [
        ("/v2", 404, "not_found"),
        ("/v1/services?service=tcp/192.0.2.9:80", 404, "no_such_service"),
        ("/v1/services?service=nonsense", 400, "bad_request"),
        ("/v1/services?servce=tcp/192.0.2.1:80", 400, "bad_request"),
        ("/v1/commands", 405, "method_not_allowed"),
    ] {
        let (got, body) = bench.get(path).await;
        assert_eq!(got, status, "{path}: {body}");
        assert_eq!(json(&body)["error"], error, "{path}");
        assert!(!json(&body)["message"].as_str().expect("a reason").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_no_batch_is_refused_and_changes_nothing() {
    let bench = Bench::start();
    for body in [
        "",
        "{",
        "[]",
        "{\"commands\": [{\"nonsense\": {}}]}",
        "{\"commands\": [\"flush\"], \"onerror\": \"rollback\"}",
        "{\"commands\": [\"flush\", {\"add_server\": {\"service\": \"tcp/1:80\"}}]}",
        "\u{0}\u{1}\u{7f}",
    ] {
        let (status, reply) = bench.post(body).await;
        assert_eq!((status, json(&reply)["error"].as_str()), (400, Some("bad_request")), "{body:?}: {reply}");
    }
    assert_eq!(bench.plane.publications(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_are_answered_400_with_a_reason() {
    let bench = Bench::start();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut inputs: Vec<Vec<u8>> = (0..200)
        .map(|_| {
            let length = random() as usize % 600 + 1;
            (0..length).map(|_| random() as u8).collect()
        })
        .collect();
    inputs.extend(
        [
            &b"GET / HTTP/9.9\r\n\r\n"[..],
            b"GET / HTTP/1.1\r\nhost: lb",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
            b"GET no-url-at-all HTTP/1.1\r\nhost: \x00\r\n\r\n",
            b"POST /v1/commands HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
            b"POST /v1/commands HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\n",
            b"POST /v1/commands HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n",
            b"POST /v1/commands HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ]
        .map(<[u8]>::to_vec),
    );
    inputs.push([&b"GET /"[..], &[b'a'; 64 * 1024], b" HTTP/1.1\r\n\r\n"].concat());
    for input in inputs {
        let (status, body) = bench.send(&input).await;
        assert_eq!(status, 400, "{:?}", String::from_utf8_lossy(&input));
        let body = json(&body);
        assert_eq!(body["error"], "bad_request");
        assert!(!body["message"].as_str().expect("a reason").is_empty());
    }
    assert_eq!(bench.get("/healthz").await.0, 200, "and it still serves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_are_made_and_read_by_nfacct() {
    use crate::cli::{client::Client, nfacct};
    let bench = Bench::start();
    let path = bench.path.clone();
    let run_all = move || {
        let mut client = Client::new(&path).expect("a runtime");
        let lines = [
            "add web/1 packet 5",
            "add web/1",
            "get web/1 reset",
            "get other reset",
            "list json foo",
            "list",
            "delete web/1",
            "delete web/1",
            "list",
        ];
        lines.map(|line| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let (mut output, mut errors) = (Vec::new(), Vec::new());
            let input = &mut std::io::empty();
            let mut around = nfacct::Surroundings { input, output: &mut output, errors: &mut errors };
            let code = nfacct::run(&words, &mut client, &mut around);
            (code, String::from_utf8([output, errors].concat()).expect("text"))
        })
    };
    let done = tokio::task::spawn_blocking(run_all).await.expect("no panic");
    let shown = "{ pkts = 00000000000000000000, bytes = 00000000000000000000, quota = 00000000000000000005, mode = packet, overquota = no } = web/1;\n";
    let failed = |why: &str| (1, format!("nfacct v1.0.2: {why}\n"));
    assert_eq!(
        done,
        [
            (0, String::new()),
            failed("error: Device or resource busy"),
            (0, shown.to_owned()),
            failed("error: No such file or directory"),
            failed("unknown argument"),
            (0, shown.to_owned()),
            (0, String::new()),
            failed("error: No such file or directory"),
            (0, String::new()),
        ]
    );
    let (status, _) =
        bench.send(b"POST /v1/nfacct HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n[1]").await;
    assert_eq!(status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_beyond_the_limit_is_refused() {
    let bench = Bench::start();
    let head =
        format!("POST /v1/commands HTTP/1.1\r\nhost: lb\r\ncontent-length: {}\r\n\r\n", server::MAX_BODY + 1);
    let (status, reply) = bench.send(head.as_bytes()).await;
    assert_eq!((status, json(&reply)["error"].as_str()), (413, Some("too_large")));
    // Without a length it is found out on the way.
    let chunk = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
    let request = format!(
        "POST /v1/commands HTTP/1.1\r\nhost: lb\r\ntransfer-encoding: chunked\r\n\r\n{}",
        chunk.repeat(17)
    );
    let (status, reply) = bench.send(request.as_bytes()).await;
    assert_eq!((status, json(&reply)["error"].as_str()), (413, Some("too_large")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_streamed_line_by_line() {
    let bench = Bench::start();
    bench.plane.flows.store(5000, Relaxed);
    let (status, body) = bench.get("/v1/connections").await;
    assert_eq!((status, body.lines().count()), (200, 5000));
    let last: super::types::Connection =
        serde_json::from_str(body.lines().last().expect("a line")).expect("JSON");
    assert_eq!((last.state.as_str(), last.expires), ("ESTABLISHED", 899));
    assert_eq!(last.client, "11.0.19.135:80".parse().expect("an address"));
    assert_eq!(last.service, Some("tcp/192.0.2.1:80".parse().expect("a service")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_filtered_and_counted_where_they_are() {
    let bench = Bench::start();
    bench.plane.flows.store(5000, Relaxed);
    for (query, found) in [
        ("", 5000),
        ("?state=established", 5000),
        ("?state=SYN_RECV", 0),
        ("?protocol=tcp&service=tcp/192.0.2.1:80", 5000),
        ("?protocol=udp", 0),
        ("?service=tcp/192.0.2.9:80", 0),
        ("?client=11.0.0.0/24", 256),
        ("?server=10.0.0.7:80&virtual=192.0.2.1", 1),
        ("?virtual=192.0.2.2", 0),
        ("?server=10.0.0.7:81", 0),
    ] {
        let (status, body) = bench.get(&format!("/v1/connections{query}")).await;
        assert_eq!((status, body.lines().count()), (200, found), "{query}");
        let (status, body) = bench.get(&format!("/v1/connections/count{query}")).await;
        assert_eq!((status, json(&body)["count"].as_u64()), (200, Some(found as u64)), "{query}");
    }
    for (query, why) in [
        ("?bogus=1", "unknown field `bogus`"),
        ("?state=FOO", "no state of a connection, those are ASSURED, "),
        ("?server=10.0.0.1", "server"),
        ("?protocol=icmp", "unknown variant `icmp`"),
        ("?client=10.0.0.0/33", "10.0.0.0/33"),
        ("?service=tcp/192.0.2.1", "service"),
    ] {
        for path in ["/v1/connections", "/v1/connections/count"] {
            let (status, body) = bench.get(&format!("{path}{query}")).await;
            let body = json(&body);
            assert_eq!((status, body["error"].as_str()), (400, Some("bad_request")), "{query}");
            assert!(body["message"].as_str().is_some_and(|said| said.contains(why)), "{query}: {body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_goes_away_ends_the_list() {
    let bench = Bench::start();
    bench.plane.flows.store(200_000_000, Relaxed);
    let mut stream = UnixStream::connect(&bench.path).await.expect("a daemon");
    stream.write_all(b"GET /v1/connections HTTP/1.1\r\nhost: lb\r\n\r\n").await.expect("sent");
    let mut some = [0; 1024];
    stream.read_exact(&mut some).await.expect("a beginning");
    drop(stream);
    let mut seen = 0;
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let now = bench.plane.listed.load(Relaxed);
        if now == seen {
            break;
        }
        seen = now;
    }
    assert!(seen < 200_000_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_under_way_is_finished_when_the_daemon_stops() {
    let mut bench = Bench::start();
    let mut stream = UnixStream::connect(&bench.path).await.expect("a daemon");
    stream.write_all(b"GET /healthz HTTP/1.1\r\n").await.expect("sent");
    assert_eq!(bench.get("/healthz").await.0, 200, "the first connection is being served by now");
    bench.stop.send(true).expect("it runs");
    stream.write_all(b"host: lb\r\n\r\n").await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    (&mut bench.server).await.expect("it ends");
    assert!(UnixStream::connect(&bench.path).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_say_half_do_not_hold_up_the_end() {
    let mut bench = Bench::start();
    let mut silent = Vec::new();
    // As many as are served at a time, and one that waits.
    for _ in 0..65 {
        let mut stream = UnixStream::connect(&bench.path).await.expect("a daemon");
        let half = b"POST /v1/commands HTTP/1.1\r\nhost: lb\r\ncontent-length: 100\r\n\r\n{";
        stream.write_all(half).await.expect("sent");
        silent.push(stream);
    }
    bench.stop.send(true).expect("it runs");
    // Well below the time that a body has to come.
    let ended = tokio::time::timeout(std::time::Duration::from_secs(15), &mut bench.server).await;
    ended.expect("it ends in time").expect("and does not panic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_clients_do_not_keep_others_from_being_served() {
    let bench = Bench::start();
    let mut silent = Vec::new();
    for _ in 0..3 * http::CONNECTIONS {
        silent.push(UnixStream::connect(&bench.path).await.expect("a daemon"));
    }
    assert_eq!(bench.get("/healthz").await.0, 200);
    let mut first = silent.swap_remove(0);
    let mut said = Vec::new();
    let _reset = first.read_to_end(&mut said).await;
    assert!(!said.starts_with(b"HTTP/1.1 200"), "it asked for nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_are_slow_with_their_request_do_not_keep_others_from_being_served() {
    let bench = Bench::start();
    let mut slow = Vec::new();
    for _ in 0..http::CONNECTIONS {
        let mut stream = UnixStream::connect(&bench.path).await.expect("a daemon");
        let half = b"POST /v1/commands HTTP/1.1\r\nhost: lb\r\ncontent-length: 100\r\n\r\n{";
        stream.write_all(half).await.expect("sent");
        slow.push(stream);
    }
    for _ in 0..2 * http::CONNECTIONS {
        assert_eq!(bench.get("/healthz").await.0, 200);
    }
    // A few places were enough for all of them.
    let is_cut_off = |stream: &UnixStream| match stream.try_read(&mut [0; 1]) {
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        Ok(_) => true,
    };
    let cut_off = slow.iter().filter(|stream| is_cut_off(stream)).count();
    assert!((1..http::CONNECTIONS / 2).contains(&cut_off), "{cut_off}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_nobody_reads_is_not_made_further_than_what_may_wait() {
    let bench = Bench::start();
    bench.plane.flows.store(200_000_000, Relaxed);
    let mut stream = UnixStream::connect(&bench.path).await.expect("a daemon");
    stream.write_all(b"GET /v1/connections HTTP/1.1\r\nhost: lb\r\n\r\n").await.expect("sent");
    let mut seen = 0;
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let now = bench.plane.listed.load(Relaxed);
        if now > 0 && now == seen {
            break;
        }
        seen = now;
    }
    // Four pieces of 32 KiB, one in the making, and what the socket and the HTTP library hold: 100 bytes and more a line.
    assert!(seen < 20_000, "{seen} lines were made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_is_answered_although_the_control_task_is_not() {
    let (control, plane, _) = fake::start(SERVICE);
    let (release, held) = std::sync::mpsc::channel::<()>();
    let control = control.spawn();
    let blocked = control.clone();
    let is_held = tokio::spawn(async move { blocked.ask(move |_| held.recv()).await });
    let path = std::env::temp_dir().join(format!("lb-api-{}-held.sock", std::process::id()));
    let listener = UnixListener::bind(&path).expect("free");
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(http::serve(listener, server::unix_router(control, plane), stopped));
    let mut stream = UnixStream::connect(&path).await.expect("a daemon");
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: lb\r\n\r\n").await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.ends_with("the control task has not answered for 1 s\n"), "{answer}");
    release.send(()).expect("it waits");
    is_held.await.expect("it ends").expect("an answer").expect("released");
    std::fs::remove_file(&path).expect("there");
}

#[test]
fn the_tcp_address_has_no_commands() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (control, plane, _) = fake::start(SERVICE);
        let router = server::tcp_router(control.spawn(), plane);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (_stop, stopped) = watch::channel(false);
        tokio::spawn(http::serve(listener, router, stopped));
        for (path, expected) in
            [("/metrics", "200"), ("/readyz", "200"), ("/v1/services", "404"), ("/v1/commands", "404")]
        {
            let mut stream = tokio::net::TcpStream::connect(address).await.expect("a daemon");
            stream
                .write_all(format!("GET {path} HTTP/1.1\r\nhost: lb\r\n\r\n").as_bytes())
                .await
                .expect("sent");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("an answer");
            assert_eq!(answer.split(' ').nth(1), Some(expected), "{path}");
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrape_waits_for_another_and_nothing_else_waits_for_either() {
    let (control, plane) = fake::start_large(3000);
    let bench = Arc::new(Bench::of(control, plane));
    let turn = super::scrape::TURN.acquire().await.expect("it is not closed");
    let asking = bench.clone();
    let asked = tokio::spawn(async move { asking.get("/metrics").await });
    for _ in 0..20 {
        assert_eq!(bench.get("/readyz").await, (200, "ready\n".to_owned()));
    }
    assert!(!asked.is_finished());
    drop(turn);
    let (status, metrics) = asked.await.expect("an answer");
    assert_eq!((status, metrics.matches("\nlb_ipvs_backend_weight{").count()), (200, 3000));
}
