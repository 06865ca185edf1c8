use super::*;

/// `{"w": tensor of 2×3 numbers, "n": 7}` as `torch.save` writes it, shortened.
fn sample() -> Vec<u8> {
    let mut pickle = b"\x80\x02}q\0(X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n".to_vec();
    pickle.extend(b"((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" as &[u8]);
    pickle.extend(b"0X\x03\0\0\0cpuK\x06tQK\x02K\x02K\x03\x86K\x03K\x01\x86\x89" as &[u8]);
    pickle.extend(b"ccollections\nOrderedDict\n)RtRX\x01\0\0\0nK\x07u." as &[u8]);
    pickle
}

#[test]
fn a_tensor_is_described_and_other_entries_are_left_out() {
    let expected = Description {
        name: "w".to_owned(),
        storage_class: "FloatStorage".to_owned(),
        storage: "0".to_owned(),
        offset: 2,
        shape: vec![2, 3],
        strides: vec![3, 1],
    };
    assert_eq!(tensors(&sample()), Ok(vec![expected]));
}

#[test]
fn a_pickle_cut_short_anywhere_is_an_error() {
    let sample = sample();
    for length in 0..sample.len() {
        assert!(tensors(&sample[..length]).is_err(), "{length}");
    }
}

#[test]
fn a_changed_byte_never_panics() {
    let sample = sample();
    for place in 0..sample.len() {
        for byte in 0..=u8::MAX {
            let mut changed = sample.clone();
            changed[place] = byte;
            drop(tensors(&changed));
        }
    }
}

#[test]
fn calls_are_not_made() {
    let call = b"cos\nsystem\nX\x04\0\0\0exit\x85R.";
    assert_eq!(tensors(call), Err(PickleError::NotTensors));
}

#[test]
fn deep_nesting_and_doubling_stay_small() {
    let deep = [vec![b'N'], vec![0x85; 1_000_000], vec![b'.']].concat();
    assert_eq!(tensors(&deep), Err(PickleError::NotTensors));
    let double = b"q\0h\0\x86".repeat(1_000);
    let double = [b")".as_slice(), &double, b"."].concat();
    assert_eq!(tensors(&double), Err(PickleError::NotTensors));
    let itself = b"]q\0h\0a.";
    assert_eq!(tensors(itself), Err(PickleError::NotTensors));
}

#[test]
fn numbers_have_a_sign_where_the_format_has_one() {
    let value = |pickle: &[u8]| {
        let mut machine = Machine {
            rest: pickle,
            values: Vec::new(),
            stack: Vec::new(),
            memo: HashMap::new(),
        };
        let place = machine.run().expect("runs");
        match machine.values[place] {
            Value::Integer(number) => number,
            _ => panic!("not a number"),
        }
    };
    assert_eq!(value(b"K\xff."), 255);
    assert_eq!(value(b"M\xff\xff."), 65_535);
    assert_eq!(value(b"J\xff\xff\xff\xff."), -1);
    assert_eq!(value(b"\x8a\x01\xff."), -1);
    assert_eq!(value(b"\x8a\x02\xff\x00."), 255);
    assert_eq!(value(b"\x8a\x00."), 0);
    assert!(tensors(b"\x8a\x09123456789.").is_err());
}
