import pytest
from factories import make_model

from smcl.train.collator import SMCLDataCollator
from smcl.train.image_cache import ImageFeatures


def test_posts_that_do_not_fit_are_named_by_their_ids(posts, processor):
    rows = [{**posts[3], "ner_tags": [0]}, posts[4]]
    with pytest.raises(ValueError, match=r"Post 0 .* but 1 labels.*ids \['3', '4'\]"):
        SMCLDataCollator(processor)(rows)
    crowded = posts.select([1]).map(lambda post: {"images": post["images"] * 5})
    with pytest.raises(ValueError, match=r"has 5 images, but `max_images` is 4.*ids \['1'\]"):
        SMCLDataCollator(processor)(list(crowded))
    with pytest.raises(ValueError, match="has 5 images"):
        ImageFeatures(make_model(), processor).replace_images(crowded)
    cut = ImageFeatures(make_model(), processor, on_extra_images="first").replace_images(crowded)
    assert cut[0]["image_rows"] == [0, 0, 0, 0]
