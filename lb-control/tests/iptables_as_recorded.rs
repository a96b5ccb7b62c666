//! Goal: `iptables`, `iptables-save` and `iptables-restore` do as the real ones on a real kernel. Method: the recorded command lines in
//! order, each with its exit code and both outputs; over the API too.

mod recording;
mod support;

use std::net::{IpAddr, Ipv4Addr};

use lb_control::api::rules::{RuleBatch, RuleFamily, RuleReply, RulesReply};
use lb_control::cli::client::Client;
use lb_control::cli::director::DirectorError;
use lb_control::cli::ipset;
use lb_control::cli::iptables::{self, RuleKeeper, Surroundings};
use lb_control::cli::labels::LabelNames;
use lb_control::model::rules::RuleTables;
use lb_control::sets::IpSets;
use lb_core::rule::names::{Names, Numeric};
use lb_core::rule::{Family, Table};
use lb_core::time::Tick;
use recording::Vector;
use serde::Deserialize;
use support::Daemon;

/// Keeps rules, and the IP sets that they name.
trait Keeper: RuleKeeper {
    /// A line of `ipset`, whose own output is another test's.
    fn ipset(&mut self, vector: &Vector);

    fn keeper(&mut self) -> &mut dyn RuleKeeper;
}

struct InProcess {
    rules: RuleTables,
    sets: IpSets,
}

impl Keeper for InProcess {
    fn ipset(&mut self, vector: &Vector) {
        let words = vector.argv[1..].iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" ");
        for line in vector.stdin.as_deref().unwrap_or(&words).lines() {
            // Some are to fail.
            let _ = self.sets.line(line, false, Tick(0));
        }
        self.rules.know_sets(self.sets.known());
    }

    fn keeper(&mut self) -> &mut dyn RuleKeeper {
        self
    }
}

impl Keeper for Client {
    fn ipset(&mut self, vector: &Vector) {
        let stdin = vector.stdin.clone().unwrap_or_default();
        let (mut input, mut output, mut errors) = (stdin.as_bytes(), Vec::new(), Vec::new());
        let mut around = ipset::Surroundings { input: &mut input, output: &mut output, errors: &mut errors };
        ipset::run(&vector.argv[1..], self, &mut around);
    }

    fn keeper(&mut self) -> &mut dyn RuleKeeper {
        self
    }
}

impl RuleKeeper for InProcess {
    fn change(&mut self, batch: &RuleBatch) -> Result<RuleReply, DirectorError> {
        Ok(RuleReply { failed: self.rules.apply(batch, &[]).err() })
    }

    fn rules(&mut self, family: RuleFamily, table: Option<Table>) -> Result<RulesReply, DirectorError> {
        Ok(RulesReply { tables: self.rules.view(family, table, &[]) })
    }
}

/// What the recording machine knew of hosts and ports.
struct Known;

const PORTS: [(&str, u16); 12] = [
    ("tcpmux", 1),
    ("http", 80),
    ("https", 443),
    ("ftp", 21),
    ("ssh", 22),
    ("smtp", 25),
    ("domain", 53),
    ("ntp", 123),
    ("sip", 5060),
    ("http-alt", 8080),
    ("tproxy", 8081),
    ("mdns", 5353),
];

impl Names for Known {
    fn protocol(&self, name: &str) -> Option<u8> {
        if name == "dccp" { Some(33) } else { Numeric.protocol(name) }
    }

    fn protocol_name(&self, number: u8) -> Option<String> {
        match number {
            33 => Some("dccp".to_owned()),
            108 => Some("ipcomp".to_owned()),
            47 => Some("gre".to_owned()),
            number => Numeric.protocol_name(number),
        }
    }

    fn service(&self, name: &str, _: &str) -> Option<u16> {
        PORTS.iter().find(|(known, _)| *known == name).map(|(_, port)| *port)
    }

    fn service_name(&self, port: u16, _: &str) -> Option<String> {
        PORTS.iter().find(|(_, known)| *known == port).map(|(name, _)| (*name).to_owned())
    }

    fn resolve(&self, host: &str, _: Family) -> Vec<IpAddr> {
        if host == "localhost" { vec![Ipv4Addr::LOCALHOST.into()] } else { Vec::new() }
    }

    fn realm(&self, name: &str) -> Option<u32> {
        (name == "cosmos").then_some(0)
    }

    fn realm_name(&self, realm: u32) -> Option<String> {
        (realm == 0).then(|| "cosmos".to_owned())
    }

    fn host_name(&self, address: IpAddr) -> Option<String> {
        (address == Ipv4Addr::LOCALHOST).then(|| "localhost".to_owned())
    }

    fn label(&self, name: &str) -> Option<u16> {
        LabelNames::read(LABELS).bit(name)
    }

    fn label_name(&self, bit: u16) -> Option<String> {
        LabelNames::read(LABELS).name(bit).map(str::to_owned)
    }
}

/// `/etc/xtables/connlabel.conf`, where the lines about labels were recorded.
const LABELS: &str = "0\tzero\n1 eth0-in\n3 three four\n11 5\n127 last\n128 toobig\n";

/// Lines of a listing without dates.
fn comparable(text: &str, is_sorted: bool) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    if is_sorted {
        lines.sort_unstable();
    }
    lines
}

/// Those of `one` that are not in `other`.
fn only_in(sign: &str, one: &[&str], other: &[&str]) -> String {
    let lines = one.iter().filter(|line| !other.contains(line)).take(6);
    lines.map(|line| format!("\n    {sign} {line}")).collect()
}

fn check(name: &str, keeper: &mut dyn Keeper) {
    let vectors: Vec<Vector> = recording::read(include_str!("oracle/iptables_ipset_cli.json"));
    let (mut same, mut different) = (0, Vec::new());
    for vector in &vectors {
        if vector.argv[0] == "ipset" {
            keeper.ipset(vector);
            continue;
        }
        let keeper = keeper.keeper();
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let stdin = vector.stdin.clone().unwrap_or_default();
        let mut input = stdin.as_bytes();
        let mut around =
            Surroundings { names: &Known, input: &mut input, output: &mut output, errors: &mut errors };
        let words = &vector.argv[1..];
        let code = match vector.argv[0].as_str() {
            "iptables" => iptables::run("iptables", words, keeper, &mut around),
            "iptables-save" => iptables::run_save("iptables-save", words, keeper, &mut around),
            "iptables-restore" => iptables::run_restore("iptables-restore", words, keeper, &mut around),
            other => panic!("{}: {other} is not replayed", vector.n),
        };
        let mut output = String::from_utf8(output).expect("text");
        let errors = String::from_utf8(errors).expect("text");
        if vector.usage_text_follows_in.is_some() {
            let end = output.find("Usage:").unwrap_or_default();
            assert!(output.len() > end && end > 0, "{}: there is no usage text", vector.n);
            output.truncate(end);
        }
        let [got, expected] =
            [&output, &vector.stdout].map(|text| comparable(text, !vector.stable_across_boots));
        if code == vector.rc && errors == vector.stderr && (output == vector.stdout || got == expected) {
            same += 1;
            continue;
        }
        different.push(format!(
            "{} {}\n  expected {} {:?}\n  got      {code} {errors:?}{}{}",
            vector.n,
            vector.argv.join(" "),
            vector.rc,
            vector.stderr,
            only_in("-", &expected, &got),
            only_in("+", &got, &expected),
        ));
    }
    assert!(different.is_empty(), "{name}:\n{}", different.join("\n"));
    assert_eq!(same, LINES, "{name}");
}

/// A line with one rule, in a chain where no other is.
#[derive(Deserialize)]
struct OneRule {
    argv: Vec<String>,
    rc: u8,
    #[serde(default)]
    stderr: String,
    /// `-S CHAIN` without its policy, `-L CHAIN -n -v -x` without its head; absent: the line stays for those behind it.
    saved: Option<String>,
    listed: Option<String>,
    /// `-L CHAIN -v -x` without its head, where names are printed otherwise than numbers.
    named: Option<String>,
}

/// Runs a line; its exit code and both outputs.
fn run(argv: &[String], keeper: &mut dyn RuleKeeper) -> (u8, String, String) {
    let (mut input, mut output, mut errors): (&[u8], _, _) = (b"", Vec::new(), Vec::new());
    let mut around =
        Surroundings { names: &Known, input: &mut input, output: &mut output, errors: &mut errors };
    let name = if argv[0] == "iptables" { "iptables" } else { "ip6tables" };
    let code = iptables::run(name, &argv[1..], keeper, &mut around);
    (code, String::from_utf8(output).expect("text"), String::from_utf8(errors).expect("text"))
}

#[test]
fn each_option_of_a_match_or_target_does_as_recorded() {
    let keeper = &mut InProcess { rules: RuleTables::new(0), sets: IpSets::new(1) };
    let vectors: Vec<OneRule> = recording::read(include_str!("oracle/iptables_extensions.json"));
    let mut different = Vec::new();
    for vector in &vectors {
        let at = vector.argv.iter().position(|word| word == "-A").expect("an -A");
        // The same table and chain, asked for another thing.
        let ask = |option: &str, more: &[&str]| {
            let mut argv = vector.argv[..at + 2].to_vec();
            option.clone_into(&mut argv[at]);
            argv.extend(more.iter().map(|word| (*word).to_owned()));
            argv
        };
        let (code, _, errors) = run(&vector.argv, keeper);
        let mut expected = format!("{} {}", vector.rc, vector.stderr);
        let mut got = format!("{code} {errors}");
        if let (Some(saved), Some(listed)) = (&vector.saved, &vector.listed) {
            let ours = run(&ask("-S", &[]), keeper).1;
            let ours: Vec<&str> = ours.lines().filter(|line| !line.starts_with("-P")).collect();
            let shown = run(&ask("-L", &["-n", "-v", "-x"]), keeper).1;
            let shown: Vec<&str> = shown.lines().skip(2).collect();
            expected += &format!("{saved}\n    {listed}");
            got += &format!("{}\n    {}", ours.join("\n"), shown.join("\n"));
            if let Some(named) = &vector.named {
                let shown = run(&ask("-L", &["-v", "-x"]), keeper).1;
                expected += &format!("\n    {named}");
                got += &format!("\n    {}", shown.lines().skip(2).collect::<Vec<_>>().join("\n"));
            }
        }
        if vector.saved.is_some() || code != vector.rc {
            run(&ask("-F", &[]), keeper);
        }
        if got != expected {
            different.push(format!("{}\n  expected {expected}\n  got      {got}", vector.argv.join(" ")));
        }
    }
    let has = |line: &str, part: &str| format!("{}$", line.lines().next().unwrap_or_default()).contains(part);
    let is_known = |line: &String| KNOWN.iter().any(|(part, _)| has(line, part));
    let known = different.iter().filter(|line| is_known(line)).count();
    let is_there = |part: &str| different.iter().any(|line| has(line, part));
    let done: Vec<_> = KNOWN.iter().filter(|(part, _)| !is_there(part)).collect();
    let others: Vec<_> = different.iter().filter(|line| !is_known(line)).map(String::as_str).collect();
    assert!(
        others.is_empty() && done.is_empty(),
        "{} of {}:\n{}\ndo as recorded by now: {done:?}",
        others.len(),
        vectors.len(),
        others.join("\n")
    );
    assert_eq!((vectors.len(), known), EXTENSIONS, "lines, and those that are known to differ");
}

/// Of random lines, parts of those that do otherwise, and why.
const OTHERWISE: &[(&str, &str)] = &[
    ("! -i +", "never matches: saved as it was given"),
    ("--monthdays 0", "saved so that it can be read again"),
    ("--weekdays 8", "saved so that it can be read again"),
    ("--weekdays 0", "saved so that it can be read again"),
    ("--hashlimit-burst 0", "another mistake of the line is told first"),
    ("-j DROP", "another mistake of the line is told first"),
];

#[test]
fn random_lines_do_as_recorded() {
    let keeper = &mut InProcess { rules: RuleTables::new(0), sets: IpSets::new(1) };
    let (mut same, mut different) = (0, Vec::new());
    for line in include_str!("oracle/iptables_lines.txt").lines() {
        let [code, errors, saved, argv @ ..] = &*line.split('\t').collect::<Vec<_>>() else {
            panic!("{line}: not four fields");
        };
        let argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
        let with = |option: &str| {
            let mut ask = argv[..5].to_vec();
            option.clone_into(&mut ask[3]);
            ask
        };
        let (found, _, said) = run(&argv, keeper);
        let said = said.split("\nTry `").next().unwrap_or_default().replace('\n', "|");
        let listed = run(&with("-S"), keeper).1;
        let listed: Vec<&str> = listed.lines().filter(|line| line.starts_with("-A")).collect();
        let listed = listed.join("|");
        run(&with("-F"), keeper);
        let is_same =
            (found.to_string().as_str(), said.trim_matches('|'), listed.as_str()) == (*code, *errors, *saved);
        let words = argv.join(" ");
        if is_same {
            same += 1;
        } else if found.to_string() != *code || !OTHERWISE.iter().any(|(part, _)| words.contains(part)) {
            different.push(format!(
                "{words}\n  recorded {code} {errors} {saved}\n  found    {found} {said} {listed}"
            ));
        }
    }
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
    assert!(same > 1580, "{same}");
}

/// Lines about matches and targets, and how many of them are known to differ.
const EXTENSIONS: (usize, usize) = (1524, 19);

/// Parts of the lines that do otherwise (`$` is their end), and why.
const KNOWN: &[(&str, &str)] = &[
    (
        "--hashlimit-rate-interval 10 --hashlimit-name r3$",
        "listed without the interval, which -S does not say",
    ),
    ("--gateway x$", "where it was recorded nobody was there to ask for names"),
    ("--monthdays 0$", "saved so that it can be read again"),
    ("--weekdays 8$", "saved so that it can be read again"),
    ("-m time ! --monthdays 0$", "all days are as none said"),
    ("--seconds 4294967295$", "iptables prints -1"),
    ("--seconds 2147483648 --name h4$", "iptables prints -2147483648"),
    ("--icmp-type 255/", "listed without the code, which -S does not say"),
    ("! -i +$", "never matches: saved as it was given"),
    ("4294963208,22 0 0 0", "the number of an interface, which nobody here knows"),
    ("-j SNPT --src-pfx ::/0 --dst-pfx ::/0$", "saved so that it can be read again"),
    ("--physdev-in $", "saved so that it can be read again"),
    ("--physdev-in a b$", "saved so that it can be read again"),
    ("--genre a b$", "saved so that it can be read again"),
    ("--genre it's$", "saved so that it can be read again"),
    ("--genre $", "saved so that it can be read again"),
];

/// Exit code and both outputs of a line, as one.
fn does(line: &str, keeper: &mut dyn RuleKeeper) -> (u8, String) {
    let argv: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let (code, output, errors) = run(&argv, keeper);
    (code, output + errors.split("\nTry `").next().unwrap_or_default())
}

fn in_process() -> InProcess {
    InProcess { rules: RuleTables::new(0), sets: IpSets::new(1) }
}

#[test]
fn a_word_of_letters_ends_with_an_option_that_may_have_a_value() {
    let keeper = &mut in_process();
    does("iptables -A INPUT -j ACCEPT", keeper);
    let listed = (0, "-P INPUT ACCEPT\n-A INPUT -j ACCEPT\n".to_owned());
    for line in ["-SINPUT", "-w2 -S INPUT", "-w 2 -tfilter -SINPUT", "-w -SINPUT"] {
        assert_eq!(does(&format!("iptables {line}"), keeper), listed, "{line}");
    }
    assert!(does("iptables -nvLINPUT", keeper).1.starts_with("Chain INPUT (policy ACCEPT 0 packets"));
    let no_chain = (1, "iptables: No chain/target/match by that name.\n".to_owned());
    for line in ["-Ln", "-Stfilter", "-Xown"] {
        assert_eq!(does(&format!("iptables {line}"), keeper), no_chain, "{line}");
    }
    assert_eq!(
        does("iptables -wS", keeper),
        (2, "iptables v1.8.9 (legacy): wait seconds not numeric".to_owned())
    );
    assert_eq!(does("iptables -FINPUT", keeper), (0, String::new()));
    assert_eq!(does("iptables -SINPUT", keeper).1, "-P INPUT ACCEPT\n");
}

#[test]
fn a_label_is_read_by_number_or_name_and_listed_by_name() {
    // Recorded from iptables 1.8.9, with a file of these names.
    let keeper = &mut in_process();
    let mut add = |words: &[&str]| {
        let argv = [&["iptables", "-A", "INPUT", "-m", "connlabel"], words].concat();
        let argv: Vec<String> = argv.into_iter().map(str::to_owned).collect();
        let (code, output, errors) = run(&argv, keeper);
        (code, output + &errors)
    };
    for words in [
        &["--label", "zero"][..],
        &["--label", "three four", "--set"],
        &["--label", "11"],
        &["--label", "5"],
        &["!", "--label", "0x7f"],
        &["--set", "!", "--label", "50", "-j", "ACCEPT"],
        &["--label", "65541"],
        &["--label", "4294967296"],
    ] {
        assert_eq!(add(words), (0, String::new()), "{words:?}");
    }
    let help = "Try `iptables -h' or 'iptables --help' for more information.\n";
    for (words, code, message) in [
        (
            &["--label", "nobody"][..],
            2,
            "iptables v1.8.9 (legacy): label 'nobody' not found or invalid value\n",
        ),
        (&["--label", "-1"], 2, "iptables v1.8.9 (legacy): label '-1' not found or invalid value\n"),
        (
            &["--label", "4294967295"],
            2,
            "iptables v1.8.9 (legacy): label '4294967295' not found or invalid value\n",
        ),
        (
            &["--label", ""],
            2,
            "iptables v1.8.9 (legacy): Argument must have a minimum length of 1 characters\n\n",
        ),
        (&["--label", "128"], 1, "iptables: Numerical result out of range.\n"),
        (&["--label", "toobig"], 1, "iptables: Numerical result out of range.\n"),
        (&["--set"], 2, "iptables v1.8.9 (legacy): connlabel: option \"--label\" must be specified\n\n"),
        (
            &["--label", "5", "--label", "6"],
            2,
            "iptables v1.8.9 (legacy): connlabel: option \"--label\" can only be used once.\n\n",
        ),
        (
            &["--label", "5", "!", "--set"],
            2,
            "iptables v1.8.9 (legacy): connlabel: option \"--set\" cannot be inverted.\n\n",
        ),
    ] {
        let help = if code == 2 { help } else { "" };
        assert_eq!(add(words), (code, format!("{message}{help}")), "{words:?}");
    }
    let saved = "-P INPUT ACCEPT
-A INPUT -m connlabel --label \"zero\"
-A INPUT -m connlabel --label \"three four\" --set
-A INPUT -m connlabel --label \"5\"
-A INPUT -m connlabel --label \"5\"
-A INPUT -m connlabel ! --label \"last\"
-A INPUT -m connlabel ! --label \"50\" --set -j ACCEPT
-A INPUT -m connlabel --label \"5\"
-A INPUT -m connlabel --label \"zero\"
";
    assert_eq!(does("iptables -S INPUT", keeper), (0, saved.to_owned()));
    let listed = |line: &str, keeper: &mut InProcess| {
        let ends = |line: &str| line.rsplit_once("  connlabel").map(|(_, end)| end.to_owned());
        does(line, keeper).1.lines().filter_map(ends).collect::<Vec<_>>()
    };
    let by_name = [" 'zero'", " 'three four' set", " '5'", " 5", " ! 'last'", " ! 50 set", " 5", " 'zero'"];
    assert_eq!(listed("iptables -L INPUT", keeper), by_name);
    let by_number = [" 0", " 3 set", " 11", " 5", " ! 127", " ! 50 set", " 5", " 0"];
    assert_eq!(listed("iptables -L INPUT -n", keeper), by_number);
    let told = "  all opt -- in * out *  0.0.0.0/0  -> 0.0.0.0/0   connlabel 1\n";
    assert_eq!(does("iptables -v -A INPUT -m connlabel --label eth0-in", keeper), (0, told.to_owned()));
    assert_eq!(does("iptables -D INPUT -m connlabel --label zero", keeper).0, 0);
    assert_eq!(does("iptables -C INPUT -m connlabel --label last", keeper).0, 1);
}

#[test]
fn what_says_how_to_list_goes_with_a_listing_alone() {
    let keeper = &mut in_process();
    for (line, letter) in
        [("-S -n", 'n'), ("-A INPUT -x -j DROP", 'x'), ("-F --line-numbers", '0'), ("-P INPUT DROP -n", 'n')]
    {
        let words = format!("iptables v1.8.9 (legacy): Illegal option `-{letter}' with this command");
        assert_eq!(does(&format!("iptables {line}"), keeper), (2, words), "{line}");
    }
    assert_eq!(does("iptables -L INPUT -n -x --line-numbers -Z", keeper).0, 0);
    assert_eq!(does("iptables -S INPUT", keeper).1, "-P INPUT ACCEPT\n");
}

#[test]
fn a_change_is_told_where_it_is_asked_for() {
    let keeper = &mut in_process();
    for (line, told) in [
        (
            "iptables -vA FORWARD -i a -o b -s 192.0.2.1 -j ACCEPT",
            "ACCEPT  all opt -- in a out b  192.0.2.1  -> 0.0.0.0/0  ",
        ),
        (
            "iptables -v -I FORWARD 2 ! -p tcp ! -i e+ ! -d 192.0.2.9/24",
            "  !tcp opt -- in !e+ out *  0.0.0.0/0 !-> 192.0.2.0/24  ",
        ),
        (
            "iptables -vA INPUT ! -f -p udp --dport 53",
            "  udp opt !f in * out *  0.0.0.0/0  -> 0.0.0.0/0   udp dpt:53",
        ),
        ("ip6tables -vA INPUT -p 99 -j DROP", "DROP  99 opt -- in * out *  ::/0  -> ::/0  "),
        ("iptables -vN own", ""),
        ("iptables -vZ own", "Zeroing chain `own'"),
        (
            "iptables -vF",
            "Flushing chain `INPUT'\nFlushing chain `FORWARD'\nFlushing chain `OUTPUT'\nFlushing chain `own'",
        ),
        ("iptables -vX", "Deleting chain `own'"),
        ("iptables -vP INPUT ACCEPT", ""),
    ] {
        let told = told.replacen("  !tcp", " !tcp", 1);
        let told = if told.is_empty() { told } else { told + "\n" };
        assert_eq!(does(line, keeper), (0, told), "{line}");
    }
}

/// Exit code and both outputs, as one, of `iptables-restore`.
fn restore(options: &str, file: &str, keeper: &mut dyn RuleKeeper) -> (u8, String) {
    let words: Vec<String> = options.split_whitespace().map(str::to_owned).collect();
    let (mut input, mut output, mut errors) = (file.as_bytes(), Vec::new(), Vec::new());
    let mut around =
        Surroundings { names: &Known, input: &mut input, output: &mut output, errors: &mut errors };
    let code = iptables::run_restore("iptables-restore", &words, keeper, &mut around);
    output.extend(errors);
    (code, String::from_utf8(output).expect("text"))
}

#[test]
fn options_of_a_restore_may_stand_together_and_have_their_values_in_the_same_word() {
    let keeper = &mut in_process();
    let file = "*raw\n:R - [0:0]\nCOMMIT\n*filter\n:F - [0:0]\n-A F -j DROP\nCOMMIT\n";
    let said = (0, String::new());
    for options in ["--table=raw -w5", "-nTraw", "-cw -Traw", "-4 -W1 -w 3 -T raw"] {
        assert_eq!(restore(options, file, keeper), said, "{options}");
        assert_eq!(does("iptables -t raw -S R", keeper), (0, "-N R\n".to_owned()), "{options}");
        assert_eq!(does("iptables -S F", keeper).0, 1, "{options}");
        does("iptables -t raw -X", keeper);
    }
    for options in ["-nX", "--counters=1", "--tabel raw"] {
        assert_eq!(restore(options, file, keeper).0, 2, "{options}");
    }
    let told = "Flushing chain `INPUT'\nFlushing chain `FORWARD'\nFlushing chain `OUTPUT'\n\
                DROP  all opt -- in * out *  0.0.0.0/0  -> 0.0.0.0/0  \n";
    assert_eq!(restore("-vTfilter", file, keeper), (0, told.to_owned()));
    assert_eq!(restore("-vnTfilter", file, keeper), said);
    assert_eq!(does("iptables -S F", keeper).1, "-N F\n-A F -j DROP\n");
}

/// Recorded lines of `iptables`, all of which do the same.
const LINES: usize = 293;

#[test]
fn command_lines_do_as_recorded() {
    check("in process", &mut InProcess { rules: RuleTables::new(0), sets: IpSets::new(1) });
}

#[test]
fn they_do_as_recorded_over_the_api() {
    let daemon = Daemon::start(Vec::new());
    check("over the API", &mut Client::new(&daemon.socket()).expect("a client"));
}
