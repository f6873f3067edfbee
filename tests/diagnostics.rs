//! What people see when a recipe is wrong: each malformed recipe with its exact report.
//!
//! Knows only recipes as text and reports as text.

use std::path::PathBuf;

use kiln::mistake::Mistakes;
use kiln::source::Sources;
use kiln::workspace::compile;
use miette::{GraphicalReportHandler, GraphicalTheme};

/// The report on some files, or on their lints if nothing else is wrong.
fn report(files: &[(&str, &[u8])]) -> String {
    let mut sources = Sources::default();
    let files = files.iter().map(|(path, bytes)| (PathBuf::from(path), bytes.to_vec()));
    let found = match compile(&mut sources, files) {
        Ok(compiled) => compiled.graph.lints,
        Err(mistakes) => mistakes,
    };
    assert!(!found.is_empty(), "a mistake is expected");
    assert!(found.iter().all(|mistake| !mistake.labels.is_empty()), "each has a place");
    let mistakes = Mistakes::new(found, &sources);
    let mut text = String::new();
    GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
        .with_width(100)
        .render_report(&mut text, &mistakes)
        .unwrap();
    text.lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
}

/// A recipe with one image whose block holds these lines.
fn image(lines: &str) -> String {
    format!("image \"web\" {{\n    base bootstrap \"bookworm\"\n{lines}\n}}\n")
}

macro_rules! whole {
    ($($name:ident: $text:expr;)*) => {$(
        #[test]
        fn $name() {
            let report = report(&[("recipes/web.kdl", $text.as_ref())]);
            insta::assert_snapshot!(stringify!($name), report);
        }
    )*};
}

macro_rules! in_an_image {
    ($($name:ident: $text:expr;)*) => {$(
        #[test]
        fn $name() {
            let report = report(&[("recipes/web.kdl", image($text).as_bytes())]);
            insta::assert_snapshot!(stringify!($name), report);
        }
    )*};
}

// Syntax.
whole! {
    unclosed_block: "image \"web\" {\n    base bootstrap \"bookworm\"\n    scrub {\n        keep \"logfiles\"\n}\n";
    closed_too_often: "image \"web\" {\n    base bootstrap \"bookworm\"\n}\n}\n";
    unclosed_string: "image \"web\" {\n    base bootstrap \"bookworm\n    update\n}\n";
    several_faults: "image \"web\" {\n    base=bootstrap\n    write /etc/motd \"x\" mode=0o9\n    password \"root\" locked=true\n    {\n    }\n}\n";
    text_without_lines: "image \"web\" {\n    run-command \"\"\"set -e\n      true\n    \"\"\"\n}\n";
    text_not_indented: "image \"web\" {\n    run-command \"\"\"\n    true\n  false\n    \"\"\"\n}\n";
    missing_space: "image \"web\"\"x\" {\n}\n";
    bad_escape: "image \"web\" {\n    run-command \"echo a\\d \\u{110000}\"\n}\n";
    hidden_nothing: "image \"web\" {\n    base file \"a.raw\" /-\n}\n";
    type_annotation: "(image)web {\n}\n";
    unclosed_comment: "image \"web\" {\n    /* base\n}\n";
    comment_of_another_language: "# the web server\nimage \"web\" {\n    base file \"a.raw\"\n}\n";
    not_utf8: b"image \"web\" {\n    hostname \"caf\xe9\"\n}\n";
    too_large: vec![b'a'; (1 << 20) + 1];
    too_many_nodes: "a\n".repeat(20_001);
    nested_hidden_blocks: "a /-{".repeat(18);
    nested_blocks: "a {".repeat(1_300);
    nested_comments: "/*".repeat(3_700);
    invisible_character: "image \"we\u{202e}b\" {\n}\n";
}

// Values, words and their places.
in_an_image! {
    unknown_step: "    instal \"nginx\"";
    unknown_step_from_elsewhere: "    root-password \"secret\"";
    unknown_step_near_nothing: "    frobnicate";
    unknown_property: "    install \"nginx\" refesh=\"24h\"";
    duplicate_property: "    write \"/a\" \"x\" mode=\"0644\" mode=\"0600\"";
    wrong_type: "    run \"a.sh\" network=\"yes\"";
    missing_argument: "    write \"/etc/motd\"\n    install\n    hostname";
    too_many_arguments: "    hostname \"a\" \"b\"\n    update \"nginx\"\n    run-command \"true\" network #true";
    mode_as_number: "    write \"/a\" \"x\" mode=644\n    chmod 755 \"/b\"";
    bad_mode: "    chmod \"u+x\" \"/b\"\n    mkdir \"/c\" mode=\"0888\"";
    bad_guest_path: "    touch \"etc/x\" \"/a/../b\" \"~/x\" \"/\"\n    delete \"/*\"";
    bad_local_path: "    upload \"/etc/passwd\" \"/a\"\n    run \"../../x.sh\"\n    run \"\"";
    bad_package: "    install \"vim,curl\" \"-y\" \"nginx \" \"foo-\" \"\"";
    bad_period: "    update refresh=\"1 day\" timeout=60\n    update refresh=\"0h\" timeout=\"-3m\"";
    refresh_without_network: "    run \"a.sh\" refresh=\"24h\"\n    update network=#false refresh=\"1h\"";
    network_where_there_is_none: "    uninstall \"nginx\" network=#true";
    bad_owner: "    chown \"www-data:\" \"/srv\"\n    mkdir \"/srv/x\" owner=\"a b\" group=0";
    bad_hostname: "    hostname \"web_1\"\n    hostname \"-web\"\n    timezone \"../etc/shadow\"\n    timezone \"/Europe\"";
    line_of_two_lines: "    append-line \"/etc/hosts\" \"a\\nb\"";
    password_of_no_kind: "    password \"root\"\n    password \"root\" locked=#true plain=\"x\"\n    password \"root\" locked=#false\n    password \"0\" hash=\"abc\"";
    bad_key: "    ssh-inject \"admin\" key=\"-----BEGIN OPENSSH PRIVATE KEY-----\"\n    ssh-inject \"admin\" key=\"AAAA\"\n    ssh-inject \"admin\"";
    move_into_itself: "    move \"/a\" \"/a/b\"";
    unexpected_block: "    hostname \"web\" {\n        domain \"example.org\"\n    }\n    scrub {\n        keep \"log\"\n        drop \"logs\"\n    }";
    bad_output: "    output\n    output \"vmdk\"\n    output \"raw\" compress=#true\n    output \"qcow2\" path=\"../x.qcow2\"\n    output \"qcow2\" path=\"recipes/web.kdl\"";
    empty_script: "    run-command \" \"";
    bad_expression: "    edit \"/etc/motd\" \"s/a/b/\" \"s/a/b/e\" \"s/a/b\" \"print if /a/\" \"\"";
    copy_into_itself: "    copy \"/a\" \"/a/b\"";
    two_scrubs: "    scrub\n    scrub { keep \"logfiles\"; }";
}

whole! {
    no_base: "image \"web\" {\n    update\n}\nimage \"db\"\n";
    two_bases: "image \"web\" {\n    base file \"a.raw\"\n    base file \"b.raw\"\n}\n";
    bad_bases: "image \"a\" {\n    base \"disk.qcow2\"\n}\nimage \"b\" {\n    base\n}\nimage \"c\" {\n    base file \"a.vmdk\" format=\"vmdk\"\n}\nimage \"d\" {\n    base bootstrap \"bookworm\" size=4 varient=\"minbase\" {\n        mirror \"deb.debian.org\"\n        packages \"vim\"\n    }\n}\n";
    bad_sizes: "image \"a\" {\n    base bootstrap \"bookworm\" size=\"0G\"\n}\nimage \"b\" {\n    base bootstrap \"bookworm\" size=\"-1G\"\n}\nimage \"c\" {\n    base bootstrap \"bookworm\" size=\"4GB\"\n}\nimage \"d\" {\n    base bootstrap \"bookworm\" size=\"99999999T\"\n}\n";
    bad_image_name: "image \"web server\" {\n    base file \"a.raw\"\n}\nimage \"\" {\n    base file \"a.raw\"\n}\nimage {\n}\n";
    step_outside_an_image: "install \"nginx\"\nimages \"web\"\n";
}

// Names and order.
in_an_image! {
    unknown_after: "    touch \"/a\" name=\"first\"\n    touch \"/b\" after=\"frist\"\n    touch \"/c\" after=\"touch\"";
    after_itself: "    touch \"/a\" name=\"a\" after=\"a\"";
    after_relabel: "    selinux-relabel name=\"labels\"\n    touch \"/a\" after=\"labels\"";
    cycle_of_steps: "    touch \"/a\" name=\"a\" after=\"c\"\n    touch \"/b\" name=\"b\" after=\"a\"\n    touch \"/c\" name=\"c\" {\n        after \"b\" \"d\"\n    }\n    touch \"/d\" name=\"d\" after=\"b\"";
    duplicate_step: "    touch \"/a\" name=\"a\"\n    touch \"/b\" name=\"a\"";
    label_taken: "    touch \"/a\"\n    run \"x.sh\" name=\"touch\"";
    label_reserved: "    touch \"/a\" name=\"size\"\n    touch \"/b\" name=\"seal\"";
    shared_output: "    output \"qcow2\"\n    output \"qcow2\" compress=#true";
    lints: "    touch \"/a\" name=\"a\" after=\"b\"\n    selinux-relabel\n    touch \"/b\" name=\"b\"\n    password \"root\" plain=\"secret\"";
}

whole! {
    cycle_of_images: "image \"a\" {\n    base image \"b\"\n}\nimage \"b\" {\n    base image \"a\"\n}\nimage \"c\" {\n    base image \"c\"\n}\n";
    unknown_image: "image \"web\" {\n    base image \"debian-goldn\"\n}\nimage \"debian-golden\" {\n    base file \"a.raw\"\n}\n";
}

#[test]
fn mistakes_in_several_files() {
    let report = report(&[
        ("kiln.kdl", b"store \"cache\"\nstroe \"x\"\njobs 0\n"),
        ("recipes/a.kdl", b"image \"web\" {\n    base image \"db\"\n}\n"),
        ("recipes/b.kdl", b"image \"db\" {\n    base image \"web\"\n}\n"),
        ("recipes/c.kdl", b"image \"web\" {\n    base file \"a.raw\"\n    instal \"x\"\n}\n"),
    ]);
    insta::assert_snapshot!("mistakes_in_several_files", report);
}

// User data and templates; what their files hold is the tests' of user data.
whole! {
    bad_parts: "user-data \"a\" {\n    script\n    script \"a.sh\" text=\"x\"\n    script \"a.sh\" \"b.sh\"\n    cloud-config\n    cloud-config file=\"a\" {\n        reboot\n    }\n    part \"a\"\n    part \"a\" type=\"multipart/mixed\"\n    include \"http;//x\"\n    packages \"a\"\n}\n";
    bad_config: "user-data \"a\" {\n    cloud-config {\n        file \"/a\"\n        file \"/a\" \"b\" source=\"c\"\n        file \"/a\" \"b\" \"c\"\n        hostname \"a\"\n        hostname \"b\"\n        key \"no key\"\n        package \"a\"\n    }\n}\n";
    owner_by_number: "user-data \"a\" {\n    cloud-config {\n        file \"/a\" \"b\" owner=\"33:www-data\"\n        file \"/a\" \"b\" owner=\"0:100\"\n    }\n}\n";
    no_parts: "user-data \"a\" {\n}\n";
    no_server: "heat \"a\" {\n    wait\n}\n";
    bad_server: "heat \"a\" {\n    server image=\"a\" image-name=\"b\" key=\"c\"\n    server\n    wait timeout=\"13h\"\n}\nheat \"b\" {\n    server\n    wait count=2000\n}\n";
    unknown_documents: "user-data \"web\" {\n    require \"/a\"\n}\nuser-data \"web\" {\n    require \"/b\"\n}\nheat \"web\" {\n    server image=\"debian\" user-data=\"wbe\"\n}\nheat \"web\" {\n    server user-data=\"other\"\n}\n";
}

// Profiles.
whole! {
    unknown_profile: "image \"web\" {\n    base bootstrap \"bookworm\"\n    profile \"openstak\"\n}\n";
    unknown_extended_profile: "profile \"team\" extends=\"nothing-like-it\" {\n    firewall\n}\n";
    duplicate_profile: "profile \"team\" {\n    firewall\n}\nprofile \"team\" {\n    growth\n}\n";
    profile_called_like_one_of_kilns_own: "profile \"openstack\" {\n    firewall\n}\n";
    profiles_in_circles: "profile \"a\" extends=\"b\" {\n}\nprofile \"b\" extends=\"a\" {\n}\n";
    requirement_not_taken_over: "profile \"team\" extends=\"openstack\" {\n    without \"firewal\"\n}\n";
    duplicate_requirement: "profile \"team\" {\n    package \"a\"\n    package \"b\"\n}\n";
    too_many_sources: "image \"i\" {\n    base file \"a\"\n    test {\n        metadata \"config-drive\" \"service\" \"nocloud\"\n        memory \"1G\"\n        memory \"2G\"\n        expct \"x\"\n    }\n    expect \"login\"\n}\n";
    two_default_users: "profile \"team\" {\n    default-user \"a\" \"b\"\n}\n";
    two_consoles: "profile \"team\" {\n    console \"ttyS0\" \"tty0\"\n}\n";
    not_in_a_remedy: "profile \"team\" {\n    firewall {\n        remedy {\n            profile \"hardened\"\n            update name=\"all\"\n        }\n    }\n}\n";
}

// Publishing.
in_an_image! {
    bad_publish: "    publish \"swift\"\n    publish \"glance\" {\n        name \"\"\n        visibility \"everyone\"\n        property \"os distro\" \"debian\"\n        property \"status\" \"active\"\n        property \"kiln_state\" \"x\"\n        property \"hw_disk_bus\" \"virtio\"\n        property \"hw_disk_bus\" \"scsi\"\n        output \"raw\"\n        keep-old 24\n        protected \"yes\"\n        cloud \"a\"\n        cloud \"b\"\n    }";
    publish_twice_under_one_name: "    publish \"glance\"\n    publish \"glance\" { name \"web\"; }\n    publish \"glance\" { cloud \"b\"; }";
    lints_of_publish: "    publish \"glance\" {\n        keep-old \"1h\"\n        property \"auto_disk_config\" \"true\"\n    }";
}
