import fuzz


def test_mutated_data_is_read_right_or_refused_by_name():
    counts = fuzz.run(mutations=3 * len(fuzz.MUTATIONS), seed=7)
    assert counts.total() == 3 * len(fuzz.MUTATIONS)
    assert {name.split(":")[0] for name in counts} == {mutate.__name__ for mutate in fuzz.MUTATIONS}
