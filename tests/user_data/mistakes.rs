//! What people see when user data or a template is wrong, or may not mean what they think.

use kiln::heat;
use kiln::mistake::Mistakes;
use miette::{GraphicalReportHandler, GraphicalTheme};

use super::{load, tree};

/// What `kiln check` says.
fn report(recipe: &str, files: &[(&str, &[u8])]) -> String {
    let tree = tree(recipe, files);
    let workspace = load(&tree);
    let found = heat::check(&workspace);
    if found.is_empty() {
        return String::new();
    }
    let mistakes = Mistakes::new(found, &workspace.sources);
    let mut text = String::new();
    GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
        .with_width(100)
        .render_report(&mut text, &mistakes)
        .unwrap();
    text.lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
}

#[test]
fn parts_that_cloud_init_would_not_take() {
    let recipe = "user-data \"a\" {
    script \"none.sh\"
    script \"latin.sh\"
    cloud-config file=\"plain.yaml\"
    cloud-config file=\"list.yaml\"
    boothook text=\"echo early\"
    part \"latin.sh\" type=\"text/x-thing\"
}
user-data \"b\" {
    script \"nowhere.sh\"
}
user-data \"c\" {
    part \"large\" type=\"application/x-thing\"
}
user-data \"d\" gzip=#true {
    part \"large\" type=\"application/x-thing\"
}
user-data \"e\" {
    script text=\"#!/bin/sh -ex\\nwc_notify # Grüße\"
    script text=\"#!/bin/sh -ex\\ntrue\"
}
user-data \"f\" {
    script text=\"#!/bin/sh -ex\\ntrue\"
}
heat \"c\" {
    server user-data=\"c\"
}
user-data \"g\" {
    part \"large\" type=\"application/x-thing\"
}
heat \"e\" {
    server user-data=\"e\"
    wait
}
heat \"f\" {
    server user-data=\"f\"
    wait count=3
}
";
    // Nothing that could be compressed: the squares of numbers, by a generator of Lehmer.
    let mut state = 1_u64;
    let large: Vec<u8> = (0..60_000)
        .map(|_| {
            state = state * 48_271 % 0x7fff_ffff;
            u8::try_from(state >> 8 & 0xff).unwrap()
        })
        .collect();
    let files: &[(&str, &[u8])] = &[
        ("none.sh", b"echo hello\n"),
        ("latin.sh", b"#!/bin/sh -ex\necho caf\xe9\n"),
        ("plain.yaml", b"packages: [a]\n"),
        ("list.yaml", b"#cloud-config\n- a\n"),
        ("large", &large),
    ];
    insta::assert_snapshot!(report(recipe, files));
}

#[test]
fn what_may_be_meant_otherwise() {
    let recipe = "image \"rhel\" {
    base file \"rhel.qcow2\"
    subscription organization=\"1\" activation-key=\"key\"
}
user-data \"habits\" {
    script \"habits.sh\"
    script text=\"#!/bin/bash\\nset -e\\necho $(yum -y install x)\\nsubscription-manager register\"
    script text=\"#!/usr/bin/env python3\\nprint('no shell')\"
}
user-data \"packages\" {
    cloud-config {
        packages \"ntp\"
    }
    cloud-config file=\"more.yaml\"
}
heat \"stack\" {
    server image=\"on-rhel\" user-data=\"in-a-file\"
}
image \"on-rhel\" {
    base image \"rhel\"
}
user-data \"in-a-file\" {
    cloud-config file=\"versions.yaml\"
    script text=\"#!/bin/sh -ex\\ncommand -v ntpd\"
}
image \"bare\" {
    base bootstrap \"bookworm\"
}
heat \"nothing-asks\" {
    server image=\"bare\" user-data=\"in-a-file\"
    wait
}
user-data \"commands\" {
    cloud-config {
        run \"sudo -E apt-get install -y x\"
    }
    script text=\"#!/bin/sh -ex\\nsudo -u root env -i A=b timeout -s KILL 60 dnf -y install x\"
}
heat \"waits\" {
    server
    wait
}
user-data \"calls\" {
    script text=\"#!/bin/sh -ex\\nwc_notify\"
}
heat \"goes-on\" {
    server user-data=\"calls\"
}
";
    let settings: &[(&str, &[u8])] = &[
        ("../kiln.kdl", b"secret \"key\" env=\"KEY\"\n"),
        (
            "habits.sh",
            b"#!/bin/sh\n# apt-get install x\nif true; then DEBIAN_FRONTEND=x sudo apt-get -y install x; fi\n\
              curl http;//169.254.169.254/ >> /root/.ssh/authorized-keys\n",
        ),
        ("more.yaml", b"#cloud-config\npackages: [wget]\nruncmdd: [a]\n"),
        ("versions.yaml", b"#cloud-config\npackages: [[ntp, 1.2], wget]\n"),
    ];
    insta::assert_snapshot!(report(recipe, settings));
}

#[test]
fn good_habits_are_left_alone() {
    let recipe = "user-data \"a\" {
    cloud-config {
        packages \"ntp\" \"apt-transport-https\"
    }
    script text=\"#!/bin/sh -ex\\ncommand -v ntpd\\napt-get clean\"
    script text=\"#!/bin/bash\\nset -o errexit -o xtrace\\ndate\"
}
user-data \"b\" {
    cloud-config {
        packages \"ntp\"
    }
    require \"/usr/sbin/ntpd\"
}
user-data \"c\" {
    cloud-config {
        packages \"ntp\"
    }
    cloud-config file=\"more.yaml\"
    require \"/usr/sbin/ntpd\"
}
";
    let more: &[u8] =
        b"#cloud-config\nmerge_how: list(append)+dict(recurse_array)+str()\npackages: [wget]\n";
    assert_eq!(report(recipe, &[("more.yaml", more)]), "");
}
