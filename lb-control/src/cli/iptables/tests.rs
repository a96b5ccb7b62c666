//! Goal: lines and files as the real ones (1.8.9, Linux 6.18) take and refuse them. Method: the commands over tables in this process.

use lb_core::rule::names::Numeric;

use super::*;
use crate::model::rules::RuleTables;

struct InProcess(RuleTables);

impl RuleKeeper for InProcess {
    fn change(&mut self, batch: &RuleBatch) -> Result<RuleReply, DirectorError> {
        Ok(RuleReply { failed: self.0.apply(batch, &[]).err() })
    }

    fn rules(&mut self, family: RuleFamily, table: Option<Table>) -> Result<RulesReply, DirectorError> {
        Ok(RulesReply { tables: self.0.view(family, table, &[]) })
    }
}

/// Exit code and both outputs.
type Said = (u8, String, String);

impl InProcess {
    /// With two rules in INPUT, all with counts.
    fn new() -> InProcess {
        let mut keeper = InProcess(RuleTables::new(1));
        let file = "*filter\n:INPUT ACCEPT [5:6]\n[1:2] -A INPUT -p tcp\n[3:4] -A INPUT -p udp\nCOMMIT\n";
        assert_eq!(keeper.restore("-c", file.as_bytes()).0, 0);
        keeper
    }

    fn with(&mut self, input: &[u8], run: impl FnOnce(&mut InProcess, &mut Surroundings<'_>) -> u8) -> Said {
        let (mut input, mut output, mut errors) = (input, Vec::new(), Vec::new());
        let mut around =
            Surroundings { names: &Numeric, input: &mut input, output: &mut output, errors: &mut errors };
        let code = run(self, &mut around);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (code, text(output), text(errors))
    }

    fn line(&mut self, line: &str) -> Said {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        self.with(b"", |keeper, around| run("iptables", &words, keeper, around))
    }

    fn restore(&mut self, options: &str, file: &[u8]) -> Said {
        let words: Vec<String> = options.split_whitespace().map(str::to_owned).collect();
        self.with(file, |keeper, around| run_restore("iptables-restore", &words, keeper, around))
    }

    /// What `-S` says of INPUT, with counts.
    fn input(&mut self) -> String {
        self.line("-S INPUT -v").1
    }
}

const BEFORE: &str = "-P INPUT ACCEPT -c 5 6\n-A INPUT -p tcp -c 1 2\n-A INPUT -p udp -c 3 4\n";

#[test]
fn a_listing_of_one_rule_zeroes_the_chain_and_zeroing_one_rule_that_one() {
    let zeroed = "-P INPUT ACCEPT -c 0 0\n-A INPUT -p tcp -c 0 0\n-A INPUT -p udp -c 0 0\n";
    for line in ["-L INPUT 2 -Z", "-S INPUT 2 -Z", "-Z -L INPUT 2"] {
        let mut keeper = InProcess::new();
        let (code, said, _) = keeper.line(line);
        assert_eq!((code, said.lines().count()), (0, 1), "{line}: {said}");
        assert_eq!(keeper.input(), zeroed, "{line}");
    }
    let mut keeper = InProcess::new();
    assert_eq!(keeper.line("-Z INPUT 2 -L").0, 0);
    assert_eq!(keeper.input(), BEFORE.replace("3 4", "0 0"));
    assert_eq!(keeper.line("-L INPUT -Z 2").2, "iptables: No chain/target/match by that name.\n");
}

#[test]
fn without_a_command_what_is_wrong_by_itself_is_said_first() {
    let mut keeper = InProcess::new();
    for (line, why) in [
        ("", "no command specified"),
        ("-v", "no command specified"),
        ("-j ACCEPT", "no command specified"),
        ("-p tcp --dport 80", "no command specified"),
        ("--foo", "unknown option \"--foo\""),
        ("-t nat --foo", "unknown option \"--foo\""),
        ("-s 1.2.3.4 --foo", "unknown option \"--foo\""),
        ("--dport 80", "unknown option \"--dport\""),
        ("-Q", "unknown option \"-Q\""),
    ] {
        let said = keeper.line(line);
        let text = format!(
            "iptables v1.8.9 (legacy): {why}\nTry `iptables -h' or 'iptables --help' for more information.\n"
        );
        assert_eq!(said, (2, String::new(), text), "{line}");
    }
    assert_eq!(keeper.line("foo").2.lines().next(), Some("Bad argument `foo'"));
    let said = keeper.restore("", b"*filter\n--foo\nCOMMIT\n");
    assert!(said.0 == 2 && said.2.contains("unknown option \"--foo\""), "{said:?}");
}

#[test]
fn a_command_without_a_rule_takes_no_options_of_one() {
    let mut keeper = InProcess::new();
    for (line, why) in [
        ("-L -s 1.2.3.4", "Illegal option `-s' with this command"),
        ("-L --source 1.2.3.4", "Illegal option `-s' with this command"),
        ("-S INPUT -j ACCEPT", "Illegal option `-j' with this command"),
        ("-L -g x", "Illegal option `-j' with this command"),
        ("-L -p tcp -m tcp --dport 5", "Illegal option `-p' with this command"),
        ("-L INPUT -c 1 2", "Illegal option `-c' with this command"),
        ("-L -c 1 2 -s 1.1.1.1", "Illegal option `-s' with this command"),
        ("-L -f", "Illegal option `-f' with this command"),
        ("-Z -c 1 2", "Illegal option `-c' with this command"),
        ("-D INPUT -p tcp -c 1 2", "Illegal option `-c' with this command"),
        ("-C INPUT -p tcp -c 1 2", "Illegal option `-c' with this command"),
        ("-L -p nope", "unknown protocol \"nope\" specified"),
        ("-S --dport 5", "unknown option \"--dport\""),
        ("-L INPUT foo", "Invalid rule number `foo'"),
        ("-D INPUT foo", "Invalid rule number `foo'"),
        ("-L INPUT 1x", "Invalid rule number `1x'"),
        ("-L INPUT 0", "Invalid rule number `0'"),
        ("-L INPUT 1 foo", "Bad argument `foo'"),
        ("-F INPUT bar", "Bad argument `bar'"),
    ] {
        let (code, output, errors) = keeper.line(line);
        assert_eq!((code, output.as_str()), (2, ""), "{line}: {errors}");
        assert!(errors.contains(why), "{line}: {errors}");
        assert_eq!(keeper.input(), BEFORE, "{line}");
    }
    for line in ["-L -m tcp", "-P INPUT ACCEPT -c 5 6", "-L INPUT 5"] {
        assert_eq!(keeper.line(line).0, 0, "{line}");
    }
}

#[test]
fn numbers_and_counters_are_read_as_the_real_one_reads_them() {
    let mut keeper = InProcess::new();
    for line in [
        "-I INPUT 0x2 -p 99",
        "-I INPUT 01 -p 98",
        "-A INPUT -c 5,6 -p 97",
        "-A INPUT -c7,8 -p 96",
        "-A INPUT --set-counters=9,10 -p 95",
        "-A INPUT --set-counters 11 12 -p 94 --",
    ] {
        assert_eq!(keeper.line(line).0, 0, "{line}");
    }
    let rules = "-A INPUT -p 98 -c 0 0\n-A INPUT -p tcp -c 1 2\n-A INPUT -p 99 -c 0 0\n-A INPUT -p udp -c 3 4\n\
                 -A INPUT -p 97 -c 5 6\n-A INPUT -p 96 -c 7 8\n-A INPUT -p 95 -c 9 10\n-A INPUT -p 94 -c 11 12\n";
    assert_eq!(keeper.input(), format!("-P INPUT ACCEPT -c 5 6\n{rules}"));
    for (line, why) in [
        ("-I INPUT 0x -p 97", "Invalid rule number `0x'"),
        ("-I INPUT 4294967297 -p 97", "Invalid rule number `4294967297'"),
        ("-A INPUT -c 5,x -p 97", "-c byte counter not numeric"),
        ("-A INPUT -c 5, -p 97", "-c byte counter not numeric"),
        ("-A INPUT -c 5 -p 97", "-c requires packet and byte counter"),
        ("-A INPUT -- -p tcp", "unknown arguments found on commandline"),
        ("-L -- INPUT", "unknown arguments found on commandline"),
        ("-A INPUT -", "Bad argument `-'"),
    ] {
        let (code, _, errors) = keeper.line(line);
        assert!(code == 2 && errors.contains(why), "{line}: {errors}");
    }
    assert_eq!(keeper.line("-I INPUT 010 -p 93").0, 0, "that is 8");
}

#[test]
fn chains_that_no_hook_leads_to_may_lead_into_each_other() {
    let mut keeper = InProcess::new();
    for (line, code) in
        [("-N x", 0), ("-A x -j x", 0), ("-A INPUT -j x", 1), ("-F x", 0), ("-A INPUT -j x", 0)]
    {
        assert_eq!(keeper.line(line).0, code, "{line}");
    }
}

#[test]
fn a_file_with_bad_counters_changes_nothing() {
    let mut keeper = InProcess::new();
    for (options, line, why) in [
        ("-c", "[7] -A INPUT", "Bad line 2: need ]"),
        ("", "[7] -A INPUT", "Bad line 2: need ]"),
        ("-c", "[] -A INPUT", "Bad line 2: need ]"),
        ("-c", "[7:1 -A INPUT", "Bad line 2: need ]"),
        ("-c", "[7:x] -A INPUT", "-c byte counter not numeric"),
        ("-c", "[7:8] -A INPUT -c 1 2", "multiple -c flags not allowed"),
        ("-c", "[7:8] -N abc", "Illegal option `-c' with this command"),
        ("-c", ":INPUT ACCEPT", "invalid policy counters for chain 'INPUT'"),
        ("", ":x -\n:x -", "error creating chain 'x':File exists"),
        ("", "-N x\n:x -", "error creating chain 'x':File exists"),
        ("", "-L -s 1.1.1.1", "Illegal option `-s' with this command"),
    ] {
        let (code, _, errors) = keeper.restore(options, format!("*filter\n{line}\nCOMMIT\n").as_bytes());
        assert!(code == 2 && errors.contains(why), "{line}: {errors}");
        assert_eq!(keeper.input(), BEFORE, "{line}");
    }
    for (options, line) in [
        ("", "[7:x] -A INPUT -p icmp"),
        ("-n", ":x -\n:x -"),
        ("", ":INPUT -\n:INPUT -"),
        ("", ":x -\n-X x\n:x -"),
        ("", ":x -\n-E x y\n:x -"),
        ("-c", "[7:8]-A INPUT -p icmp"),
    ] {
        let (code, _, errors) = keeper.restore(options, format!("*filter\n{line}\nCOMMIT\n").as_bytes());
        assert_eq!(code, 0, "{line}: {errors}");
    }
    assert_eq!(keeper.input(), "-P INPUT ACCEPT -c 0 0\n-A INPUT -p icmp -c 7 8\n");
}

#[test]
fn a_file_lists_the_table_as_its_lines_have_made_it() {
    let mut keeper = InProcess::new();
    let file = "*filter\n-A INPUT -p icmp\n:x -\n-A x -m set --match-set s src\n-S\n-A INPUT -p tcp\n-L INPUT 2 -n\nCOMMIT\n";
    let (code, output, errors) =
        keeper.restore("-t", file.replace("-m set --match-set s src", "").as_bytes());
    let said = "-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n-N x\n-A INPUT -p icmp\n-A x\n";
    let second = "           6    --  0.0.0.0/0            0.0.0.0/0           \n";
    assert_eq!((code, output), (0, format!("{said}{second}")), "{errors}");
    let (_, output, _) = keeper.restore("-t", file.as_bytes());
    assert!(output.contains("-A x -m set --match-set s src\n"), "{output}");
    let (code, output, _) =
        keeper.restore("-n", b"*filter\n-A INPUT -p icmp\n-S INPUT -v -Z\n-L nope\nCOMMIT\n");
    assert_eq!((code, output), (1, format!("{BEFORE}-A INPUT -p icmp -c 0 0\n")));
    assert_eq!(keeper.input(), BEFORE);
    assert_eq!(keeper.restore("-n", b"*filter\n-S INPUT -Z\nCOMMIT\n").0, 0);
    assert!(keeper.input().starts_with("-P INPUT ACCEPT -c 0 0\n-A INPUT -p tcp -c 0 0\n"));
}

#[test]
fn a_files_comments_may_be_of_any_bytes() {
    let mut keeper = InProcess::new();
    let file = b"# caf\xe9\n*nat\n-A PREROUTING -m comment --comment caf\xe9\nCOMMIT\n*filter\n# caf\xe9\n-A INPUT -p icmp\nCOMMIT\n";
    let (code, _, errors) = keeper.restore("-T filter", file);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(keeper.line("-S INPUT").1, "-P INPUT ACCEPT\n-A INPUT -p icmp\n");
    let (code, _, errors) = keeper.restore("", file);
    assert!(code == 2 && errors.contains("no UTF-8") && errors.contains("line: 3"), "{errors}");
}
