use std::path::Path;

use expect_test::expect;
use proptest::prelude::*;

use super::table::Limits;
use super::*;

const CSV: &str = "buyer,item,odd:name\n7,\"a \"\"big\"\" one\",x\n8,käse & co,y\n9,,\"z\nz\"\n";

fn table(text: &str) -> Arc<CsvTable> {
    Arc::new(CsvTable::from_csv(Path::new("rows.csv"), text.as_bytes()).unwrap())
}

fn parse(text: &str) -> Template {
    Template::parse(text, Some(&table(CSV))).unwrap()
}

fn rendered(template: &Template, seed: u64, n: u64) -> String {
    let mut out = Vec::new();
    template.render(&RenderContext { seed, n, unix_ms: 1_700_000_000_123 }, &mut out);
    assert!(out.len() <= template.rendered_bytes_max(), "{}", out.len());
    String::from_utf8(out).unwrap()
}

#[test]
fn every_generator_gives_its_kind_of_text() {
    let template = parse(
        "n {{n}}\nuuid {{uuid}}\nint {{int:-5:5}}\nzipf {{zipf:1000}}\nfloat {{float:0.5:9.999}}\n\
         choice {{choice:red|green|}}\nhex {{hex:9}}\nstring {{string:12}}\nms {{now_ms}}\n\
         iso {{now_iso}}\nplain {{csv:item}}\njson {{csv:item:json}}\nurl {{csv:item:url}}\n\
         odd {{csv:odd:name}} {{csv:odd:name:json}}\nliteral {{{{ }} {x} {{{{{{n}}}}",
    );
    expect![[r#"
        n 0
        uuid 018bcfe5-687b-7910-a8b7-b20000000000
        int 4
        zipf 2
        float 1.330
        choice 
        hex 13ea72001d290e82e5
        string rx13bEs1Wm88
        ms 1700000000123
        iso 2023-11-14T22:13:20.123Z
        plain a "big" one
        json "a \"big\" one"
        url a%20%22big%22%20one
        odd x "x"
        literal {{ }} {x} {{0}}

        n 4
        uuid 018bcfe5-687b-7910-a8b7-b20000000004
        int 4
        zipf 236
        float 5.706
        choice 
        hex 5ddfc8f63dbd90b51e
        string q7LadAdHy5wy
        ms 1700000000123
        iso 2023-11-14T22:13:20.123Z
        plain käse & co
        json "käse & co"
        url k%C3%A4se%20%26%20co
        odd y "y"
        literal {{ }} {x} {{4}}"#]]
    .assert_eq(&(rendered(&template, 1, 0) + "\n\n" + &rendered(&template, 1, 4)));
}

#[test]
fn constants_are_known() {
    assert!(parse("GET {{{{x}} {}").is_constant());
    assert_eq!(rendered(&parse("a{{{{b"), 1, 1), "a{{b");
    assert!(!parse("{{n}}").is_constant());
}

#[test]
fn a_request_has_one_uuid_and_parts_that_draw_on_their_own() {
    let uuid = |n| rendered(&parse("{{uuid}}"), 5, n);
    assert_eq!(rendered(&parse("id={{uuid}}"), 5, 3), format!("id={}", uuid(3)));
    assert_ne!(uuid(3), uuid(4));
    assert_eq!(uuid::Uuid::parse_str(&uuid(3)).unwrap().get_version_num(), 7);

    // A path and a body with the same generator must not go in step.
    let (path, body) = (parse("/{{int:1:1000000}}"), parse("{{int:1:1000000}}"));
    let same = (0..100).filter(|&n| rendered(&path, 5, n)[1..] == rendered(&body, 5, n)).count();
    assert!(same < 5, "{same}");
}

#[test]
fn zipf_favours_low_numbers() {
    let template = parse("{{zipf:100}}");
    let ones = (0..10_000).filter(|&n| rendered(&template, 2, n) == "1").count();
    // One in 5.187, the 100th harmonic number: 1,928 of 10,000.
    assert!((1_750..2_100).contains(&ones), "{ones}");
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let mut found = String::new();
    for text in [
        "{{",
        "ok {{n}}\n  é {{int:1:2}",
        "{{id}}",
        "a\nb {{csv:id}}",
        "{{csv:id:json}}",
        "{{csv:buyer:xml}}",
        "{{csv:}}",
        "{{n:1}}",
        "{{int:5}}",
        "{{int:5:4}}",
        "{{int:1:9223372036854775808}}",
        "{{float:1:1e9}}",
        "{{float:0:0.0000000001}}",
        "{{zipf:0}}",
        "{{zipf:9999999}}{{zipf:10}}",
        "{{hex:1048577}}",
        "{{choice}}",
    ] {
        let error = Template::parse(text, Some(&table(CSV))).unwrap_err();
        found += &format!("{error}\n");
    }
    let without = Template::parse("{{csv:buyer:json}}", None).unwrap_err();
    found += &format!("{without}\n");
    let long = Template::parse(&"{{hex:1048576}}".repeat(33), None).unwrap_err();
    found += &format!("{long}\n");
    expect![[r#"
        line 1, character 1: no }} follows this {{ (a literal {{ is written as {{{{)
        line 2, character 5: no }} follows this {{ (a literal {{ is written as {{{{)
        line 1, character 1: there is no generator `id`; there are {{n}}, {{uuid}}, {{int:LOW:HIGH}}, {{zipf:N}}, {{float:LOW:HIGH}}, {{choice:a|b|c}}, {{hex:BYTES}}, {{string:LEN}}, {{now_ms}}, {{now_iso}}, {{csv:COLUMN}}
        line 2, character 3: there is no column `id`; the file has `buyer`, `item`, `odd:name`
        line 1, character 1: there is no column `id`; the file has `buyer`, `item`, `odd:name`
        line 1, character 1: there is no filter `xml`; there are `json` and `url`
        line 1, character 1: `csv:` is not {{csv:COLUMN}}: it takes the name of a column, and perhaps :json or :url
        line 1, character 1: `n:1` is not {{n}}: it takes nothing after it
        line 1, character 1: `int:5` is not {{int:LOW:HIGH}}: it takes two whole numbers of 64 bits, the lower first
        line 1, character 1: `int:5:4` is not {{int:LOW:HIGH}}: it takes two whole numbers of 64 bits, the lower first
        line 1, character 1: `int:1:9223372036854775808` is not {{int:LOW:HIGH}}: it takes two whole numbers of 64 bits, the lower first
        line 1, character 1: `float:1:1e9` is not {{float:LOW:HIGH}}: it takes two decimal numbers, the lower first, of 18 digits at most, 9 of them decimals
        line 1, character 1: `float:0:0.0000000001` is not {{float:LOW:HIGH}}: it takes two decimal numbers, the lower first, of 18 digits at most, 9 of them decimals
        line 1, character 1: `zipf:0` is not {{zipf:N}}: it takes a whole number from 1 to 10000000
        line 1, character 17: the template's zipf generators have 10000009 numbers together; the limit is 10000000
        line 1, character 1: `hex:1048577` is not {{hex:BYTES}}: it takes a whole number from 1 to 1048576
        line 1, character 1: `choice` is not {{choice:a|b|c}}: it takes options with | between them
        line 1, character 1: column `buyer` is of a data file, and none was given
        the template may come to 69206016 bytes; the limit is 67108864
    "#]].assert_eq(&found);
}

#[test]
fn what_cannot_stand_in_its_place_is_refused() {
    let check = |text, place| parse(text).check(place).map_err(|error| error.to_string());
    assert_eq!(check("/items?q={{csv:item:url}}&n={{n}}", Place::Target), Ok(()));
    assert_eq!(check("{{csv:item}}, {{csv:odd:name:json}}", Place::Header), Ok(()));
    assert_eq!(check("{{csv:odd:name}}\n", Place::Body), Ok(()));
    let refused = [
        check("/a b", Place::Target),
        check("/{{csv:item}}", Place::Target),
        check("/{{choice:a|ü}}", Place::Target),
        check("{{csv:odd:name}}", Place::Header),
    ];
    expect![[r#"
        the template's text has the character ' ', which can't stand in a path or query (percent-encode it: `:url` does so for a column)
        column `item`, record 1 has the character ' ', which can't stand in a path or query (percent-encode it: `:url` does so for a column)
        an option of a choice has the character 'ü', which can't stand in a path or query (percent-encode it: `:url` does so for a column)
        column `odd:name`, record 3 has the character '\n', which can't stand in a header"#]].assert_eq(&refused.map(|refused| refused.unwrap_err()).join("\n"));
}

#[test]
fn tables_are_bounded_and_must_be_tables() {
    let limits = Limits { rows: 3, bytes: 40, fields: 8 };
    let refused = |text: &[u8]| {
        CsvTable::read(Path::new("rows.csv"), text, limits).map(|_| ()).unwrap_err().to_string()
    };
    assert!(CsvTable::read(Path::new("rows.csv"), &b"a,b\n1,2\n3,4\n5,6\n"[..], limits).is_ok());
    let found = [
        refused(b"a\n1\n2\n3\n4\n"),
        refused(b"a,b,c\n1,2,3\n1,2,3\n1,2,3\n"),
        refused(b"a,b\n1,\"a field that is never closed and goes on"),
        refused(b"a,b\n1,2,3\n"),
        refused(b"a,a\n1,2\n"),
        refused(b"a,b\n"),
        refused(b""),
        refused(b"a,b\n1,\xff\n"),
        CsvTable::open(Path::new("rows.txt")).unwrap_err().to_string(),
    ];
    expect![[r#"
        rows.csv: the file has more than 3 records, the most that are held
        rows.csv: the file has more than 8 fields, the most that are held
        rows.csv: the file has more than 40 bytes, the most that are held
        rows.csv: record 1: cannot read it as CSV: CSV error: record 1 (line: 2, byte: 4): found record with 3 fields, but the previous record has 2 fields
        rows.csv: the header names column `a` twice
        rows.csv: the file has no records below its header
        rows.csv: the file has no records below its header
        rows.csv: record 1, field 2: not UTF-8: "�"
        rows.txt: the name of a data file ends in .csv or .csv.gz"#]].assert_eq(&found.join("\n"));
}

#[test]
fn packed_files_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.csv.gz");
    let file = std::fs::File::create(&path).unwrap();
    let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    packed.write_all(CSV.as_bytes()).unwrap();
    packed.finish().unwrap();
    let table = CsvTable::open(&path).unwrap();
    assert_eq!((table.rows(), table.columns().len()), (3, 3));
    assert_eq!(table.field(1, 1), "käse & co");
    assert_eq!(table.field(4, 0), "8");
}

/// Text that is often nearly a template.
fn template_like() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        any::<String>(),
        "\\{{0,5}(n|uuid|int|zipf|float|choice|hex|string|now_iso|csv|x)[:|a-z0-9.-]{0,12}\\}{0,4}",
        "\\{\\{(int|float):-?[0-9.]{1,5}:[0-9.]{1,20}\\}\\}",
        Just("{{csv:item:json}}".into()),
    ];
    proptest::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn text_without_braces_is_itself(text: String, seed: u64, n: u64) {
        prop_assume!(!text.contains("{{"));
        let template = Template::parse(&text, None).unwrap();
        prop_assert!(template.is_constant());
        prop_assert_eq!(rendered(&template, seed, n), text);
    }

    #[test]
    fn any_text_is_parsed_or_refused_and_renders_within_its_bound(
        text in template_like(),
        seed: u64,
        n: u64,
        unix_ms: u64,
    ) {
        if let Ok(template) = Template::parse(&text, Some(&table(CSV))) {
            let mut out = Vec::new();
            template.render(&RenderContext { seed, n, unix_ms }, &mut out);
            prop_assert!(out.len() <= template.rendered_bytes_max());
            prop_assert_eq!(out, {
                let mut again = Vec::new();
                template.clone().render(&RenderContext { seed, n, unix_ms }, &mut again);
                again
            });
        }
    }

    #[test]
    fn rendering_is_a_function_of_seed_and_number(seed: u64, n in 0..u64::MAX, unix_ms: u64) {
        let text = "{{int:0:9000000000000000000}} {{hex:8}} {{string:9}} {{float:0:1}} {{zipf:50}}";
        let render = |seed, n, unix_ms| {
            let mut out = Vec::new();
            parse(text).render(&RenderContext { seed, n, unix_ms }, &mut out);
            out
        };
        prop_assert_eq!(render(seed, n, unix_ms), render(seed, n, 0));
        prop_assert_ne!(render(seed, n, 0), render(seed, n + 1, 0));
        prop_assert_ne!(render(seed, n, 0), render(seed.wrapping_add(1), n, 0));
    }

    #[test]
    fn whole_numbers_are_within_their_bounds(a: i64, b: i64, seed: u64, n: u64) {
        let (low, high) = (a.min(b), a.max(b));
        let found: i64 = rendered(&parse(&format!("{{{{int:{low}:{high}}}}}")), seed, n).parse()?;
        prop_assert!((low..=high).contains(&found));
    }

    #[test]
    fn decimals_are_within_their_bounds(
        a in -1_000_000i64..1_000_000,
        b in -1_000_000i64..1_000_000,
        seed: u64,
        n: u64,
    ) {
        let decimal = |thousandths: i64| {
            let sign = if thousandths < 0 { "-" } else { "" };
            let t = thousandths.abs();
            format!("{sign}{}.{:03}", t / 1000, t % 1000)
        };
        let (low, high) = (a.min(b), a.max(b));
        let text = format!("{{{{float:{}:{}}}}}", decimal(low), decimal(high));
        let found = rendered(&parse(&text), seed, n);
        let value: f64 = serde_json::from_str(&found)?;
        prop_assert!((low..=high).contains(&((value * 1000.0).round() as i64)), "{found}");
        prop_assert_eq!(found.split_once('.').unwrap().1.len(), 3);
    }

    #[test]
    fn random_text_has_its_length_and_alphabet(length in 1usize..300, seed: u64, n: u64) {
        let hex = rendered(&parse(&format!("{{{{hex:{length}}}}}")), seed, n);
        prop_assert!(hex.len() == 2 * length);
        prop_assert!(hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
        let string = rendered(&parse(&format!("{{{{string:{length}}}}}")), seed, n);
        prop_assert!(string.len() == length);
        prop_assert!(string.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }

    #[test]
    fn filters_keep_the_value(values in proptest::collection::vec(any::<String>(), 1..5), n: u64) {
        let mut file = csv::Writer::from_writer(Vec::new());
        // The second column keeps a row with an empty value from being an empty line.
        file.write_record(["value", "other"]).unwrap();
        for value in &values {
            file.write_record([value, "x"]).unwrap();
        }
        let table = table(std::str::from_utf8(&file.into_inner().unwrap()).unwrap());
        let value = &values[(n % values.len() as u64) as usize];
        let render = |text| rendered(&Template::parse(text, Some(&table)).unwrap(), 1, n);

        prop_assert_eq!(&render("{{csv:value}}"), value);
        prop_assert_eq!(&serde_json::from_str::<String>(&render("{{csv:value:json}}"))?, value);

        let url = render("{{csv:value:url}}");
        prop_assert!(url.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%".contains(&b)));
        let mut parts = url.split('%');
        let mut decoded = parts.next().unwrap().as_bytes().to_vec();
        for part in parts {
            decoded.push(u8::from_str_radix(&part[..2], 16)?);
            decoded.extend_from_slice(&part.as_bytes()[2..]);
        }
        prop_assert_eq!(decoded, value.as_bytes());
    }
}
