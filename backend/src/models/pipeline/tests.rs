use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::models::test_support::folder_with;

const MODULES: &str = r#"[
    {"idx": 0, "name": "0", "path": "0_T", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_P", "type": "sentence_transformers.models.Pooling"}]"#;

/// As sentence-transformers writes it: every flag is there.
const CLS: &str = r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#;

fn read(files: &[(&str, &str)]) -> Result<Pipeline, String> {
    Pipeline::read(folder_with(files).path()).map_err(|error| error.to_string())
}

fn read_with_pooling(pooling: &str) -> Result<Pipeline, String> {
    read(&[("modules.json", MODULES), ("1_P/config.json", pooling)])
}

fn read_with_model(settings: &str) -> Result<Pipeline, String> {
    read(&[
        ("modules.json", MODULES),
        ("1_P/config.json", CLS),
        ("config_sentence_transformers.json", settings),
    ])
}

#[test]
fn a_folder_without_modules_is_mean_pooling_alone() {
    let folder = folder_with(&[
        ("sentence_bert_config.json", r#"{"max_seq_length": 9}"#),
        ("1_Pooling/config.json", CLS),
        (
            "config_sentence_transformers.json",
            r#"{"truncate_dim": 5, "prompts": {"q": "Q: "}, "default_prompt_name": "q"}"#,
        ),
    ]);
    let expected = Pipeline {
        prompt: String::new(),
        encoder: folder.path().to_owned(),
        max_length: None,
        lower_case: false,
        pooling: vec![Pooling::Mean],
        steps: Vec::new(),
    };
    assert_eq!(Pipeline::read(folder.path()).expect("plain"), expected);
    let unread: Vec<PathBuf> = unread(folder.path()).collect();
    let names = ["sentence_bert_config.json", MODEL_SETTINGS, "1_Pooling"];
    assert_eq!(unread, names.map(|name| folder.path().join(name)));
}

#[test]
fn a_chat_template_that_texts_would_be_put_into_is_refused() {
    let told = "tokenizer_config.json: 'chat_template' is there, which is unsupported";
    for file in [
        ("chat_template.jinja", "{{ messages }}"),
        (
            "tokenizer_config.json",
            r#"{"chat_template": "{{ messages }}"}"#,
        ),
    ] {
        let error = read(&[file]).expect_err(file.0);
        assert!(error.contains(told), "{error}");
        let with_modules = [file, ("modules.json", MODULES), ("1_P/config.json", CLS)];
        read(&with_modules).expect("texts stay as they are");
    }
}

#[test]
fn only_texts_as_they_are_and_the_last_layers_output_are_supported() {
    let read = |modalities: &str| {
        let settings = format!(r#"{{"modality_config": {modalities}}}"#);
        read(&[
            ("modules.json", MODULES),
            ("0_T/sentence_bert_config.json", &settings),
            ("1_P/config.json", CLS),
        ])
    };
    for good in [
        "null",
        r#"{"text": {"method": "forward", "method_output_name": "last_hidden_state"}}"#,
        r#"{"text": {"method": "forward"}, "image": {"method": "forward"}}"#,
    ] {
        read(good).expect(good);
    }
    for (bad, told) in [
        (
            r#"{"text": {}, "message": {"method": "forward"}}"#,
            "'message' is set",
        ),
        (r#"{"image": {}}"#, "'modality_config' has no 'text'"),
        (
            r#"{"text": {"method": "get"}}"#,
            "'method' is not 'forward'",
        ),
        (
            r#"{"text": {"method_output_name": "pooler_output"}}"#,
            "'method_output_name' is not 'last_hidden_state'",
        ),
    ] {
        let error = read(bad).expect_err(bad);
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn a_pooling_mode_that_is_not_known_is_refused_by_its_flag() {
    let on = r#"{"pooling_mode_mean_tokens": true, "pooling_mode_attention": true}"#;
    let error = read_with_pooling(on).expect_err("not known");
    let told = "'pooling_mode_attention' is on, which is not a known mode";
    assert!(error.contains(told), "{error}");
    read_with_pooling(&on.replace("attention\": true", "attention\": false")).expect("off");
}

#[test]
fn each_step_is_read_from_its_own_folder() {
    let normalize = r#", {"path": "2_N", "type": "sentence_transformers.models.Normalize"}]"#;
    let folder = folder_with(&[
        ("modules.json", &MODULES.replace(']', normalize)),
        (
            "0_T/sentence_bert_config.json",
            r#"{"max_seq_length": 77, "do_lower_case": true}"#,
        ),
        ("1_P/config.json", CLS),
    ]);
    let expected = Pipeline {
        prompt: String::new(),
        encoder: folder.path().join("0_T"),
        max_length: Some(77),
        lower_case: true,
        pooling: vec![Pooling::Cls],
        steps: vec![StepSettings::Normalize],
    };
    assert_eq!(Pipeline::read(folder.path()).expect("valid"), expected);
}

#[test]
fn the_encoders_settings_have_had_several_names() {
    for name in TRANSFORMER_SETTINGS {
        let settings = format!("0_T/{name}");
        let pipeline = read(&[
            ("modules.json", MODULES),
            (&settings, r#"{"max_seq_length": 77}"#),
            ("1_P/config.json", CLS),
        ]);
        assert_eq!(pipeline.expect(name).max_length, Some(77));
    }
}

#[test]
fn pooling_modes_are_known_by_flag_and_by_name() {
    use Pooling::{Cls, Last, Max, Mean, MeanSqrtLength, WeightedMean};
    for (settings, expected) in [
        (r#"{"pooling_mode_mean_tokens": true}"#, &[Mean][..]),
        (CLS, &[Cls]),
        (r#"{"pooling_mode_max_tokens": true}"#, &[Max]),
        (r#"{"pooling_mode_mean_tokens": false}"#, &[Mean]),
        (r#"{"pooling_mode": ["mean", "cls"]}"#, &[Mean, Cls]),
        ("{}", &[Mean]),
        (
            r#"{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true,
                "pooling_mode_lasttoken": true, "pooling_mode_weightedmean_tokens": true,
                "pooling_mode_mean_sqrt_len_tokens": true, "pooling_mode_max_tokens": true}"#,
            &[Cls, Max, Mean, MeanSqrtLength, WeightedMean, Last],
        ),
        (
            r#"{"pooling_mode": "max", "pooling_mode_cls_token": true, "include_prompt": true}"#,
            &[Max],
        ),
    ] {
        assert_eq!(
            read_with_pooling(settings).expect(settings).pooling,
            expected
        );
    }
}

#[test]
fn other_pooling_modes_are_refused() {
    for (settings, expected) in [
        (r#"{"pooling_mode": "attention"}"#, "has 'attention', not"),
        (r#"{"pooling_mode": ["cls", "x"]}"#, "has 'x', not"),
        (r#"{"pooling_mode": []}"#, "names no mode"),
        (
            r#"{"pooling_mode_cls_token": "yes"}"#,
            "'pooling_mode_cls_token' must be true or false",
        ),
    ] {
        let error = read_with_pooling(settings).expect_err(settings);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn dense_layers_are_read_and_must_fit() {
    let dense = r#", {"path": "2_D", "type": "sentence_transformers.models.Dense"}]"#;
    let folder = folder_with(&[
        ("modules.json", &MODULES.replace(']', dense)),
        ("1_P/config.json", r#"{"pooling_mode": ["cls", "mean"]}"#),
        (
            "2_D/config.json",
            r#"{"in_features": 4, "out_features": 3, "bias": false,
                "activation_function": "torch.nn.modules.linear.Identity"}"#,
        ),
    ]);
    let weight = Tensor::ones((3, 4), DType::F32, &Device::Cpu).expect("tensor");
    let path = folder.path().join("2_D/model.safetensors");
    candle_core::safetensors::save(&HashMap::from([("linear.weight", weight)]), path)
        .expect("save");
    let pipeline = Pipeline::read(folder.path()).expect("valid");
    assert_eq!(pipeline.dimensions(2).expect("cls and mean of 2"), 3);
    assert!(pipeline.dimensions(4).is_err());
    assert_eq!(
        pipeline.load_steps().expect("weights")[0].apply(vec![1.0, 2.0, 3.0, 4.0]),
        [10.0; 3]
    );
}

#[test]
fn other_steps_are_refused_by_name() {
    for (from, to, expected) in [
        (
            "models.Pooling",
            "models.Dense",
            "lists Transformer → Dense",
        ),
        ("models.Transformer", "models.BoW", "lists BoW → Pooling"),
        (
            "]",
            r#", {"path": "2_L", "type": "sentence_transformers.models.LSTM"}]"#,
            "→ Pooling → LSTM",
        ),
        (
            "sentence_transformers.models.Transformer",
            "own_code.Transformer",
            "lists own_code.Transformer → Pooling",
        ),
    ] {
        let modules = MODULES.replace(from, to);
        let error = read(&[("modules.json", &modules)]).expect_err("a step that is not built");
        assert!(error.contains(expected), "{error}");
    }
    assert!(read(&[("modules.json", "[]")]).is_err());
    let error = read(&[("modules.json", MODULES)]).expect_err("no file");
    assert!(error.contains("1_P"), "{error}");
}

#[test]
fn steps_stay_inside_the_model() {
    for path in ["../other", "/etc"] {
        let modules = MODULES.replace("0_T", path);
        let error = read(&[("modules.json", &modules)]).expect_err(path);
        assert!(error.contains("'path' leads out"), "{error}");
    }
}

#[test]
fn the_default_prompt_is_found_by_its_name() {
    let prompt = |text: &str| read_with_model(text).expect(text).prompt;
    let prompts = r#""prompts": {"query": "query: ", "document": ""}"#;
    assert_eq!(
        prompt(&format!(r#"{{{prompts}, "default_prompt_name": null}}"#)),
        ""
    );
    assert_eq!(
        prompt(&format!(r#"{{{prompts}, "default_prompt_name": "query"}}"#)),
        "query: "
    );
    assert_eq!(
        prompt(&format!(
            r#"{{{prompts}, "default_prompt_name": "document"}}"#
        )),
        ""
    );
    let error = read_with_model(r#"{"default_prompt_name": "other"}"#).expect_err("not there");
    assert!(error.contains("is 'other', which is not among"), "{error}");
}

#[test]
fn vectors_are_cut_where_the_model_says() {
    let cut = read_with_model(r#"{"truncate_dim": 2}"#).expect("valid");
    assert_eq!(cut.steps, [StepSettings::Truncate(2)]);
    assert_eq!(cut.dimensions(3).expect("fits"), 2);
    assert_eq!(
        cut.load_steps().expect("none")[0].apply(vec![1.0, 2.0, 3.0]),
        [1.0, 2.0]
    );
}

#[test]
fn what_would_change_numbers_and_is_not_done_is_refused_by_name() {
    let pooling = ("1_P/config.json", CLS);
    for (file, text, expected) in [
        (
            "config_sentence_transformers.json",
            r#"{"model_type": "SparseEncoder"}"#,
            "'model_type' is not",
        ),
        (
            "0_T/sentence_bert_config.json",
            r#"{"tokenizer_args": {"x": 1}}"#,
            "'tokenizer_args' is set",
        ),
        (
            "0_T/sentence_bert_config.json",
            r#"{"model_args": {"load_in_8bit": true}}"#,
            "'load_in_8bit' is set",
        ),
        (
            "0_T/sentence_bert_config.json",
            r#"{"transformer_task": "fill-mask"}"#,
            "'transformer_task' is not",
        ),
    ] {
        let error = read(&[("modules.json", MODULES), pooling, (file, text)]).expect_err(text);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_prompt_that_is_left_out_of_the_pooling_is_refused() {
    let prompt = r#"{"default_prompt_name": "q", "prompts": {"q": "query: "}}"#;
    for left_out in [
        r#"{"include_prompt": false}"#,
        r#"{"include_prompt": null}"#,
    ] {
        let files = [
            ("modules.json", MODULES),
            ("1_P/config.json", left_out),
            ("config_sentence_transformers.json", prompt),
        ];
        assert!(read(&files[..2]).is_ok());
        let error = read(&files).expect_err("unsupported");
        assert!(error.contains("'include_prompt' is not true"), "{error}");
    }
}

#[test]
fn normalising_leaves_no_holes() {
    let normalized = |row: &[f32]| Step::Normalize.apply(row.to_vec());
    let row = normalized(&[3.0, 4.0]);
    assert!(
        (row[0] - 0.6).abs() < 1e-7 && (row[1] - 0.8).abs() < 1e-7,
        "{row:?}"
    );
    let zero = normalized(&[0.0, 0.0]);
    assert!(zero.iter().all(|x| x.abs() < f32::EPSILON), "{zero:?}");
    assert!(normalized(&[f32::NAN, 1.0]).iter().all(|x| x.is_nan()));
}
