//! `include/cuota.h`: the region for readers in other languages. It is written by cbindgen from `crates/region`, and
//! held to the compiled layout by a C program.
//!
//! `scripts/regenerate-header` runs the first test with `CUOTA_REGENERATE=1`, which writes the file.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use cbindgen::{Builder, Config, DocumentationStyle, Language, Style};
use cuota_region::abi::LAYOUTS;
use cuota_region::{arena, policy, tenant};

/// Where the sources are, and what of them is for C: Rust's name and C's. Several `File`s, so several runs.
const POLICY: (&[&str], &[(&str, &str)]) = (
    &["header.rs", "policy.rs"],
    &[
        ("MAJOR", "CUOTA_LAYOUT_MAJOR"),
        ("ENTRIES", "CUOTA_POLICY_ENTRIES"),
        ("Header", "cuota_header"),
        ("Key", "cuota_policy_key"),
        ("Copy", "cuota_policy_limits"),
        ("Entry", "cuota_policy_entry"),
        ("File", "cuota_policy_file"),
    ],
);
const TENANT: (&[&str], &[(&str, &str)]) = (
    &["header.rs", "tenant.rs", "event.rs"],
    &[
        ("PROCESSES", "CUOTA_TENANT_PROCESSES"),
        ("GPUS", "CUOTA_TENANT_GPUS"),
        ("SHARES", "CUOTA_TENANT_SHARES"),
        ("EVENTS", "CUOTA_EVENTS"),
        ("Header", "cuota_header"),
        ("Summary", "cuota_tenant_summary"),
        ("Gpu", "cuota_tenant_gpu"),
        ("Place", "cuota_tenant_place"),
        ("Line", "cuota_tenant_line"),
        ("Share", "cuota_tenant_share"),
        ("Record", "cuota_event"),
        ("Events", "cuota_events"),
        ("File", "cuota_tenant_file"),
    ],
);
const ARENA: (&[&str], &[(&str, &str)]) = (
    &["header.rs", "arena.rs"],
    &[
        ("SEATS", "CUOTA_ARENA_SEATS"),
        ("Header", "cuota_header"),
        ("Desk", "cuota_arena_desk"),
        ("Place", "cuota_arena_place"),
        ("File", "cuota_arena_file"),
    ],
);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What cbindgen makes of some sources; `leave_out`: what an earlier part has.
fn part((files, names): (&[&str], &[(&str, &str)]), leave_out: &[&str]) -> String {
    let mut config = Config {
        language: Language::C,
        style: Style::Tag,
        no_includes: true,
        documentation_style: DocumentationStyle::C99,
        line_length: 110,
        ..Config::default()
    };
    config.layout.aligned_n = Some("CUOTA_ALIGNED".to_owned());
    config.export.include = names.iter().map(|(rust, _)| (*rust).to_owned()).collect();
    config.export.exclude = leave_out.iter().map(|&name| name.to_owned()).collect();
    // A reader that is no Rust loads the fields with its own language's atomics; in C11, through a cast.
    let atomics = [("AtomicU64", "uint64_t"), ("AtomicU32", "uint32_t")];
    let renamed = names.iter().chain(&atomics).map(|(from, to)| ((*from).to_owned(), (*to).to_owned()));
    config.export.rename = renamed.collect();
    let sources = root().join("crates/region/src");
    let builder =
        files.iter().fold(Builder::new().with_config(config), |b, file| b.with_src(sources.join(file)));
    let mut text = Vec::new();
    builder.generate().unwrap().write(&mut text);
    String::from_utf8(text).unwrap()
}

fn header() -> String {
    let mut text = include_str!("header_preamble.h").to_owned();
    for (name, kind) in [("POLICY", policy::KIND), ("TENANT", tenant::KIND), ("ARENA", arena::KIND)] {
        let bytes = kind.magic.to_le_bytes();
        let _ = write!(
            text,
            "\n// \"{}\" as it stands in the file.\n#define CUOTA_{name}_MAGIC UINT64_C({:#018x})\n\
             #define CUOTA_{name}_LAYOUT_HASH UINT64_C({:#018x})\n",
            String::from_utf8_lossy(&bytes),
            kind.magic,
            kind.layout_hash,
        );
    }
    let parts = [
        part(POLICY, &[]),
        part(TENANT, &["MAJOR", "Header", "GpuIndex"]),
        part(ARENA, &["MAJOR", "Header"]),
    ];
    // The later parts name what they leave out to the first without its tag.
    let parts = parts.map(|part| part.trim().replace("\n  cuota_header ", "\n  struct cuota_header "));
    let _ = write!(text, "\n{}\n\n#endif // CUOTA_H\n", parts.join("\n\n"));
    text
}

#[test]
fn the_header_is_what_the_sources_say() {
    let path = root().join("include/cuota.h");
    let header = header();
    if std::env::var_os("CUOTA_REGENERATE").is_some() {
        std::fs::write(&path, &header).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap();
    assert_eq!(committed, header, "run scripts/regenerate-header");
}

/// A C program that prints each structure's size and each field's place, as [`from_rust`] does.
fn c_program() -> String {
    let mut text =
        "#include <cuota.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {\n".to_owned();
    for layout in LAYOUTS.iter().copied().flatten() {
        let name = layout.name;
        let _ = writeln!(text, "printf(\"{name} %zu\\n\", sizeof(struct {name}));");
        for field in layout.fields.iter().map(|field| field.name) {
            let size = format!("sizeof(((struct {name} *)0)->{field})");
            let _ = writeln!(
                text,
                "printf(\"{name}.{field} %zu %zu\\n\", offsetof(struct {name}, {field}), {size});"
            );
        }
    }
    text + "return 0;\n}\n"
}

fn from_rust() -> String {
    let mut text = String::new();
    for layout in LAYOUTS.iter().copied().flatten() {
        let _ = writeln!(text, "{} {}", layout.name, layout.bytes);
        for field in layout.fields {
            let _ = writeln!(text, "{}.{} {} {}", layout.name, field.name, field.offset, field.bytes);
        }
    }
    text
}

#[test]
fn a_c_compiler_lays_every_structure_out_as_rust_does() {
    let dir = tempfile::tempdir().unwrap();
    let (source, program) = (dir.path().join("layout.c"), dir.path().join("layout"));
    std::fs::write(&source, c_program()).unwrap();
    for standard in ["-std=c11", "-std=gnu99"] {
        let status = Command::new("cc")
            .args([standard, "-Wall", "-Wextra", "-Werror", "-pedantic", "-I"])
            .arg(root().join("include"))
            .arg("-o")
            .args([&program, &source])
            .status();
        assert!(status.expect("a C compiler named cc").success());
        let output = Command::new(&program).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), from_rust(), "with {standard}");
    }
}
