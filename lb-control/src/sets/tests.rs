//! Goal: lines do what ipset and the kernel (7.17, Linux 6.18) do with them. Method: a few lines to sets of their own.

use super::*;

/// What is said to lines of which the last one is refused: its code and message.
fn refusal(lines: &str) -> (u8, String) {
    let mut sets = IpSets::new(1);
    let mut lines: Vec<&str> = lines.split(';').collect();
    let last = lines.pop().unwrap_or_default();
    done(&mut sets, &lines.join(";"));
    let Refusal { code, message } = sets.line(last, false, Tick(0)).expect_err(last);
    (code, message)
}

fn done(sets: &mut IpSets, lines: &str) {
    for line in lines.split(';').filter(|line| !line.is_empty()) {
        sets.begin();
        sets.line(line, false, Tick(0)).unwrap_or_else(|refusal| panic!("{line}: {}", refusal.message));
    }
}

/// What `lines` put into a set `x` of a type.
fn elements(kind: &str, lines: &[&str]) -> Vec<String> {
    let mut sets = IpSets::new(1);
    done(&mut sets, &format!("create x {kind}"));
    lines.iter().for_each(|line| done(&mut sets, &format!("add x {line}")));
    let listing = sets.listing(Some("x")).expect("there").text(Format::Save, false, true, Tick(0));
    listing.lines().skip(1).map(|line| line.trim_start_matches("add x ").to_owned()).collect()
}

#[test]
fn a_range_of_all_addresses_is_no_network() {
    let whole = "Invalid range, covers the whole address space";
    let cidr = "The value of the CIDR parameter of the IP address is invalid";
    let (from, to) = ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
    let (v4, v6) = ("0.0.0.0-255.255.255.255".to_owned(), format!("{from}-{to}"));
    for (family, all, zero, some) in
        [("inet", &v4, "0.0.0.0/0", "1.0.0.0/8"), ("inet6", &v6, "::/0", "1::/16")]
    {
        for (kind, entry, of_zero) in [
            ("hash:net", "ALL", Some(cidr)),
            ("hash:net,port", "ALL,80", Some(cidr)),
            ("hash:net,iface", "ALL,eth0", None),
            ("hash:net,net", "ALL,SOME", None),
            ("hash:net,net", "SOME,ALL", None),
            ("hash:net,net", "ALL,ALL", Some(cidr)),
            ("hash:net,port,net", "ALL,80,SOME", None),
            ("hash:net,port,net", "SOME,80,ALL", None),
        ] {
            let create = format!("create x {kind} family {family}");
            let entry = |all: &str| entry.replace("ALL", all).replace("SOME", some);
            for command in ["add", "del"] {
                let line = format!("{create};{command} x {}", entry(all));
                assert_eq!(refusal(&line), (1, whole.to_owned()), "{line}");
            }
            let line = format!("{create};add x {}", entry(zero));
            match of_zero {
                Some(why) => assert_eq!(refusal(&line), (1, why.to_owned()), "{line}"),
                None => done(&mut IpSets::new(1), &line),
            }
        }
    }
    assert_eq!(refusal("create x hash:net;add x 255.255.255.255-0.0.0.0").1, whole);
    assert_eq!(refusal("create x hash:ip,port,net;add x 1.1.1.1,80,0.0.0.0-255.255.255.255").1, whole);
    assert_eq!(elements("hash:net", &["0.0.0.0-127.255.255.255"]), ["0.0.0.0/1"]);
}

#[test]
fn a_line_with_a_word_too_many_does_nothing() {
    let mut sets = IpSets::new(1);
    done(&mut sets, "create a hash:ip;create b hash:ip;create c hash:ip;add a 10.0.0.1");
    for (line, word) in [
        ("destroy a b", "b"),
        ("destroy a -exist b", "b"),
        ("destroy nope b", "b"),
        ("flush a c", "c"),
        ("rename a z y", "y"),
        ("swap a b c", "c"),
    ] {
        let refusal = sets.line(line, false, Tick(0)).expect_err(line);
        assert_eq!(refusal, Refusal { code: 2, message: format!("Unknown argument {word}") });
    }
    let views: Vec<(String, usize)> =
        sets.views().into_iter().map(|view| (view.name, view.entries)).collect();
    assert_eq!(views, [("a".to_owned(), 1), ("b".to_owned(), 0), ("c".to_owned(), 0)]);
}

#[test]
fn a_second_address_is_one_address() {
    for word in ["2.2.2.0/30", "2.2.2.0-2.2.2.3"] {
        for command in ["add", "del", "test"] {
            let line = format!("create x hash:ip,port,ip;{command} x 1.1.1.1,80,{word}");
            let why = format!("Syntax error: plain IP address must be supplied: {word}");
            assert_eq!(refusal(&line), (1, why));
        }
    }
    assert_eq!(elements("hash:ip,port,ip", &["1.1.1.0/31,80,2.2.2.2"]).len(), 2);
}

#[test]
fn brackets_keep_together_what_has_a_dash_or_a_colon() {
    let of_port = ["1.1.1.1,[ftp-data]", "1.1.1.2,tcp:[ftp-data]-22", "1.1.1.3,20-[ftp]", "[1.1.1.5],80"];
    let found = elements("hash:ip,port", &of_port);
    let expected = "1.1.1.1,tcp:20 1.1.1.2,tcp:20 1.1.1.2,tcp:21 1.1.1.2,tcp:22 1.1.1.3,tcp:20 1.1.1.3,tcp:21 1.1.1.5,tcp:80";
    assert_eq!(found.join(" "), expected);
    let six = ["[::1],80", "[2001:db8::1],tcp:90", "2001:db8::1,[ftp-data]", "[::2]/128,80"];
    let found = elements("hash:ip,port family inet6", &six);
    assert_eq!(found.join(" "), "::1,tcp:80 ::2,tcp:80 2001:db8::1,tcp:20 2001:db8::1,tcp:90");
    let found = elements("hash:net,port family inet6", &["[2001:db8::]/32,80"]);
    assert_eq!(found, ["2001:db8::/32,tcp:80"]);
    assert_eq!(elements("hash:ip,port,ip family inet6", &["[::1],80,[::2]"]), ["::1,tcp:80,::2"]);
    assert_eq!(elements("hash:ip", &["[1.1.1.1]-[1.1.1.2]"]), ["1.1.1.1", "1.1.1.2"]);
    assert_eq!(elements("bitmap:port range [ftp-data]-[http]", &["[ftp-data]-[ssh]"]), ["20", "21", "22"]);
    for (kind, entry, why) in [
        ("hash:ip,port", "1.1.1.4,[80]", "cannot parse '[80]' as a tcp port"),
        ("hash:ip,port", "1.1.1.4,[]", "cannot parse '[]' as a tcp port"),
        ("hash:ip,port", "1.1.1.4,[80-90]", "cannot parse '[80-90]' as a tcp port"),
        ("hash:ip,port", "1.1.1.4,[http", "cannot find closing escape character ']' in [http"),
        ("hash:ip,port", "1.1.1.4,[[http]]", "range separator expected after '[[http]'"),
        ("hash:ip,port family inet6", "[::5]x,80", "range separator expected after '[::5]'"),
        ("hash:ip,port family inet6", "::6],80", "cannot parse ::6]: resolving to IPv6 address failed"),
        ("hash:net,port family inet6", "[2::/16],80", "'16]' is invalid as number"),
        ("hash:ip", "[1.1.1.4-1.1.1.5]", "cannot parse 1.1.1.4-1.1.1.5: resolving to IPv4 address failed"),
    ] {
        let message = refusal(&format!("create x {kind};add x {entry}")).1;
        assert!(message.starts_with("Syntax error: ") && message.ends_with(why), "{entry}: {message}");
    }
    let mut sets = IpSets::new(1);
    done(&mut sets, "create x hash:ip,port;add x 1.1.1.1,20");
    let said = sets.line("test x [1.1.1.1],[ftp-data]", false, Tick(0)).expect("there");
    assert_eq!(said.as_deref(), Some("Warning: 1.1.1.1,tcp:20 is in set x."));
}

#[test]
fn a_set_that_is_flushed_while_it_is_swept_is_swept_from_where_it_ends() {
    let mut sets = IpSets::new(1);
    let line = |sets: &mut IpSets, line: &str| sets.line(line, false, Tick(0)).expect("done");
    line(&mut sets, "create a hash:ip timeout 1 maxelem 1000000");
    line(&mut sets, "add a 10.0.0.0/14");
    assert!(sets.get(SetId(0)).set.store.slots() > SWEPT, "too wide for one sweep");
    sets.sweep(Tick(0));
    line(&mut sets, "flush a");
    line(&mut sets, "add a 10.0.0.1");
    // To its end from where the other store was left, then to the beginning, and then from there.
    for _ in 0..3 {
        sets.sweep(Tick(1000));
    }
    assert!(sets.get(SetId(0)).set.store.is_empty());
}

#[test]
fn what_lines_say_in_odd_ways_is_read_as_ipset_reads_it() {
    let one = |kind: &str, line: &str| elements(kind, &[line]).concat();
    assert_eq!(one("hash:ip timeout 9", "1.1.1.1 --timeout 0x5"), "1.1.1.1 timeout 5");
    assert_eq!(one("hash:ip,port", "1.1.1.1,icmp:PING"), "1.1.1.1,icmp:echo-request");
    assert_eq!(one("hash:ip,port", "1.1.1.1,57:0"), "1.1.1.1,skip:0");
    assert_eq!(one("hash:net,iface", "10.0.0.0/8,,eth"), "10.0.0.0/8,,eth");
    assert_eq!(one("hash:net,iface", "10.0.0.0/8,physdev:"), "10.0.0.0/8,physdev:");
    for (mark, is) in [("0x100000000", "0x0"), ("0x1/0xff/3", "0x1/0xff"), ("0x1z", "0x1"), ("0x5/7", "0x5")]
    {
        let found = one("hash:ip skbinfo", &format!("1.1.1.1 skbmark {mark}"));
        assert_eq!(found, format!("1.1.1.1 skbmark {is}"), "{mark}");
    }
    assert_eq!(one("hash:ip skbinfo", "1.1.1.1 skbprio 1:10:5"), "1.1.1.1 skbprio 1:10");
}

#[test]
fn what_is_wrong_with_a_line_is_said_as_ipset_says_it() {
    for (lines, code, message) in [
        ("create a hash:ip -6 -4", 1, "Syntax error: -4 already specified"),
        ("create a hash:ip -6 family inet", 1, "Syntax error: family already specified"),
        ("create a hash:net family unspec", 1, "Protocol family not supported by the set type"),
        ("create a hash:ip family", 2, "Missing mandatory argument of option `family'"),
        ("create a bitmap:port range 0-10 from 3", 1, "Syntax error: from already specified"),
        ("create a hash:ip timeout x timeout 6", 1, "Syntax error: 'x' is invalid as number"),
        (
            "create a hash:ip;add a 1,2,3",
            1,
            "Syntax error: Elem separator in 1,2,3, but settype hash:ip supports none.",
        ),
        ("create a hash:ip;add a 1,", 1, "Syntax error: cannot parse 1,: resolving to IPv4 address failed"),
        (
            "create a hash:ip;add a 1.1.1.1-",
            1,
            "Syntax error: cannot parse 1.1.1.1-: resolving to IPv4 address failed",
        ),
        ("create a hash:ip;add a 1.1.1.1/300", 1, "Syntax error: '300' is out of range 0-255"),
        ("create a hash:ip;add a 1.1.1.1/33", 1, "Syntax error: '33' is out of range 0-32"),
        (
            "create a hash:ip,port;add a 1.1.1.1,80,",
            1,
            "Syntax error: Second element is missing from 1.1.1.1,80,.",
        ),
        (
            "create a hash:ip,port,ip;add a 1.1.1.1,,2.2.2.2",
            1,
            "Syntax error: Third element is missing from 1.1.1.1,,2.2.2.2.",
        ),
        (
            "create a hash:ip family inet6;add a ::1/x",
            1,
            "Syntax error: plain IP address must be supplied: ::1/x",
        ),
        (
            "create b hash:ip;create c hash:ip;create a list:set;add a b;add a c before b after b",
            1,
            "Syntax error: after already specified",
        ),
    ] {
        assert_eq!(refusal(lines), (code, message.to_owned()), "{lines}");
    }
    let mut sets = IpSets::new(1);
    assert!(sets.line("destroy a", false, Tick(0)).is_err());
    assert_eq!(sets.line("destroy a", true, Tick(0)), Ok(None), "-exist");
}

#[test]
fn names_alone_are_listed_as_xml_too() {
    let mut sets = IpSets::new(1);
    let names =
        |sets: &IpSets| sets.listing(None).expect("all").text(Format::NamesXml, false, false, Tick(0));
    assert_eq!(names(&sets), "<ipsets>\n</ipsets>\n");
    done(&mut sets, "create a hash:ip");
    assert_eq!(names(&sets), "<ipsets>\n<ipset name=\"a\"/>\n</ipsets>\n");
}

#[test]
fn a_set_is_made_and_listed_as_the_kernel_does() {
    let made = |lines: &str| {
        let mut sets = IpSets::new(1);
        done(&mut sets, lines);
        let text = sets.listing(None).expect("all").text(Format::Save, false, true, Tick(0));
        text.lines().next().unwrap_or_default().split(" initval").next().unwrap_or_default().to_owned()
    };
    let inet = |rest: &str| format!("create a hash:ip family inet hashsize 1024 maxelem 65536 {rest}");
    for (words, is) in [
        ("hash:ip bucketsize 5", inet("bucketsize 6")),
        ("hash:ip bucketsize 1", inet("bucketsize 2")),
        ("hash:ip bucketsize 200", inet("bucketsize 12")),
        ("hash:ip netmask 32", inet("bucketsize 12")),
        ("hash:ip bitmask 255.255.255.255", inet("bucketsize 12")),
        ("hash:ip --family inet", inet("bucketsize 12")),
        ("list:set size 1", "create a list:set size 4".to_owned()),
        ("bitmap:port range 80 to 90", "create a bitmap:port range 80-90".to_owned()),
        (
            "bitmap:ip range 10.0.0.3-10.0.0.130 netmask 30",
            "create a bitmap:ip range 10.0.0.0-10.0.0.131 netmask 30".to_owned(),
        ),
    ] {
        assert_eq!(made(&format!("create a {words}")), is, "{words}");
    }
    let bad = "Element is out of the range of the set";
    assert_eq!(refusal("create a bitmap:ip range 10.0.0.3-10.0.0.130 netmask 31"), (1, bad.to_owned()));
    assert_eq!(
        elements("hash:net,iface timeout 9 counters", &["10.0.0.0/8,eth wildcard nomatch"]),
        ["10.0.0.0/8,eth timeout 9 nomatch wildcard packets 0 bytes 0"]
    );
    assert_eq!(elements("hash:ip comment", &["1.1.1.1 comment \"\""]), ["1.1.1.1"]);
    assert_eq!(elements("hash:ip family inet6", &["::1", "::1:1", "::ffff"]), ["::1", "::ffff", "::0.1.0.1"]);
}

#[test]
fn an_address_keeps_its_mac_when_it_is_added_again_without_one() {
    let mut sets = IpSets::new(1);
    done(&mut sets, "create a bitmap:ip,mac range 10.0.0.0/24;add a 10.0.0.1,00:11:22:33:44:55");
    assert_eq!(sets.line("add a 10.0.0.1", true, Tick(0)), Ok(None));
    assert!(sets.line("test a 10.0.0.1,00:11:22:33:44:55", false, Tick(0)).is_ok());
    assert!(sets.line("test a 10.0.0.1,00:11:22:33:44:66", false, Tick(0)).is_err());
}

#[test]
fn a_range_of_which_a_mask_makes_one_element_is_added_and_deleted() {
    let mut sets = IpSets::new(1);
    done(&mut sets, "create a hash:ip bitmask 255.255.255.0;add a 10.0.0.0/24;add a 10.0.1.5");
    assert_eq!(sets.views()[0].entries, 2);
    done(&mut sets, "del a 10.0.0.0/24");
    assert_eq!(sets.views()[0].entries, 1);
    assert!(sets.line("add a 10.0.1.0/24", false, Tick(0)).is_err(), "it was there");
}

#[test]
fn a_set_that_is_there_may_be_made_again_as_a_save_writes_it() {
    let mut sets = IpSets::new(1);
    done(&mut sets, "create a hash:ip forceadd netmask 24");
    for (words, is_same) in
        [("netmask 24", true), ("family inet6 netmask 24", true), ("netmask 25", false), ("", false)]
    {
        let again = sets.line(&format!("create a hash:ip {words}"), true, Tick(0));
        assert_eq!(again.is_ok(), is_same, "{words}");
    }
}
