//! Labels of connections in `conntrack`'s lines. Method: what conntrack 1.4.7 said in a namespace of a kernel whose rules set labels, and of a file with the same names.

use lb_control::cli::conntrack;
use lb_control::cli::labels::LabelNames;

use super::{InProcess, connections};

/// What comes of a line where four labels have names; of the connections the first has three labels, the fourth one without a name.
fn with_labels(line: &[&str]) -> (u8, String, String) {
    let names = LabelNames::read("0 zero\n1 eth0-in\n3 three four\n127 last\n");
    let words: Vec<String> = line.iter().map(|&word| word.to_owned()).collect();
    let mut tracker = InProcess(connections(), Vec::new());
    (tracker.0[0].labels, tracker.0[3].labels) = (vec![0, 3, 50], vec![50]);
    tracker.0[8].labels = vec![127];
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let code = conntrack::run_with_names(&words, &names, &mut tracker, &mut out, &mut errors);
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (code, text(out), text(errors))
}

#[test]
fn labels_are_shown_by_name_where_they_are_asked_for() {
    // Of the recorded command in a namespace.
    let ends = |line: &[&str]| {
        let out = with_labels(line).1;
        out.lines().map(|line| line.rsplit_once("use=1").expect(line).1.to_owned()).collect::<Vec<_>>()
    };
    let shown = [" labels=zero,three four", "", "", " labels", "", "", "", "", " labels=last"];
    assert_eq!(ends(&["-L", "-o", "labels"]), shown);
    assert_eq!(ends(&["-L"]), [""; 9]);
    assert_eq!(ends(&["-L", "-o", "id,labels", "-l", "zero"]), [" id=1 labels=zero,three four"]);
    for line in
        [&["-L", "-l", "zero"][..], &["-L", "--label=three four,zero"], &["-L", "-lzero", "-l", "three four"]]
    {
        assert_eq!(ends(line), [shown[0]], "{line:?}");
    }
    assert_eq!(ends(&["-D", "-l", "last", "-o", "labels"]), [""], "it shows none of what it deletes");
    let (code, out, errors) = with_labels(&["-L", "-l", "zero,last"]);
    assert_eq!((code, out.as_str()), (0, ""));
    assert!(errors.ends_with(" 0 flow entries have been shown.\n"), "{errors}");
    let xml = with_labels(&["-L", "-o", "xml,labels", "-l", "last"]).1;
    assert!(
        xml.contains("<mark>0</mark><labels><label>last</label></labels><zone>3</zone><use>1</use>"),
        "{xml}"
    );
    assert!(
        with_labels(&["-L", "-o", "xml,labels"]).1.contains("<mark>0</mark><labels></labels><use>1</use>")
    );
    let event = with_labels(&["-E", "-l", "zero"]).1;
    assert!(event.ends_with(" mark=7 labels=zero,three four \n"), "{event}");
}

#[test]
fn labels_are_set_and_taken_away_by_name() {
    let update = |line: &[&str]| {
        let (code, out, _) = with_labels(&[&["-U", "-p", "tcp"], line].concat());
        (
            code,
            out.lines().map(|line| line.rsplit_once("use=1").expect(line).1.to_owned()).collect::<Vec<_>>(),
        )
    };
    let with = |labels: &[&str]| (0, labels.iter().map(|&labels| labels.to_owned()).collect::<Vec<_>>());
    let all = [" labels=zero,eth0-in,three four", " labels=eth0-in", " labels=eth0-in,last"];
    assert_eq!(update(&["--label-add", "eth0-in"]), with(&all));
    assert_eq!(update(&["--label-add", "zero,three four", "-l", "zero"]), (1, vec![]));
    assert_eq!(update(&["--label-del", "zero"]), with(&[" labels=three four"]));
    assert_eq!(update(&["--label-del"]), with(&["", ""]));
    assert_eq!(update(&["-l", "last", "--label-del=last"]), with(&[""]));
    let new = ["-s", "1.1.1.1", "-d", "2.2.2.2", "-p", "udp", "--sport", "1", "--dport", "2", "-t", "9"];
    for verb in ["-I", "-A"] {
        assert_eq!(with_labels(&[&[verb], &new[..], &["--label-add", "zero"]].concat()).0, 0);
    }
}

#[test]
fn a_label_that_has_no_name_or_does_not_go_with_the_command_is_refused_as_recorded() {
    let usage = |message: &str| {
        let help = "Try `conntrack -h' or 'conntrack --help' for more information.";
        (2, String::new(), format!("conntrack v1.4.7 (conntrack-tools): {message}\n{help}\n"))
    };
    for (line, name) in [
        (&["-L", "-l", "50"][..], "50"),
        (&["-L", "-l", ""], ""),
        (&["-L", "-l", "zero,,last"], ""),
        (&["-L", "-l", " zero"], " zero"),
        (&["-L", "-l", "three"], "three"),
        (&["-E", "-l", "nobody"], "nobody"),
        (&["-U", "--label-add", "zero,nobody"], "nobody"),
        (&["-U", "--label-del", ""], ""),
    ] {
        assert_eq!(with_labels(line), usage(&format!("unknown label '{name}'")), "{line:?}");
    }
    for (line, option) in [
        (&["-C", "-l", "zero"][..], "label"),
        (&["-F", "-l", "zero"], "label"),
        (&["-S", "-l", "zero"], "label"),
        (&["-L", "expect", "-l", "zero"], "label"),
        (&["-L", "--label-add", "zero"], "label-add"),
        (&["-D", "--label-add", "zero"], "label-add"),
        (&["-L", "--label-del", "zero"], "label-del"),
        (&["-C", "--label-del"], "label-del"),
    ] {
        assert_eq!(
            with_labels(line),
            usage(&format!("Illegal option `--{option}' with this command")),
            "{line:?}"
        );
    }
    for line in [
        &["-U", "--label-add", "zero", "--label-del", "last"],
        &["-I", "--label-del", "zero", "--label-add", "last"],
    ] {
        let message =
            "conntrack v1.4.7 (conntrack-tools): cannot use --label-add and --label-del at the same time\n";
        assert_eq!(with_labels(line), (1, String::new(), message.to_owned()), "{line:?}");
    }
}
