"""Emoji scenes: everything follows from the seed, captions tell the truth, masks are exact."""

import math
import re

import cv2
import numpy as np
import pytest
from PIL import Image

from embedded import make_images, scenes
from embedded.scenes import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_STYLE,
    INK_STYLE,
    SCALES,
    STYLES,
    TRAINING_STYLES,
    Scene,
    concept_index,
    concepts,
    draw_scene,
    drawable,
    sprites,
)
from embedded.variations import vary

# What the embedded models must know. A word is a concept's name or one of its phrases.
IMAGES = make_images.ROOT / "Images"
ANIMALS = """horse, ewe, sheep, cow, dog, cat, elephant, zebra, rabbit, duck, tiger, lion, bear,
panda, frog, monkey, pig, mouse, goat, camel, giraffe, wolf, fox, turtle, snake, whale, dolphin,
fish, octopus, crab, snail, butterfly, honeybee, spider, penguin, chicken, owl, eagle, parrot"""
FOOD = """apple, banana, grapes, strawberry, watermelon, lemon, pear, peach, pineapple, tomato,
carrot, ear of corn, mushroom, bread, cheese, pizza, hamburger, hot dog, ice cream, doughnut,
cookie, cake, coffee"""
PLANTS = "sunflower, tulip, rose, cactus, tree, palm tree"
VEHICLES = """automobile, car, bus, bicycle, motorcycle, train, airplane, helicopter, rocket,
sailboat, ship, tractor"""
OBJECTS = """house, castle, tent, umbrella, clock, key, lock, bell, candle, light bulb, book,
guitar, violin, trumpet, drum, camera, television, telephone, scissors, hammer, anchor, crown,
top hat, glasses, soccer ball, basketball, gift, balloon, flag, ghost, robot, alien, skull,
snowman"""
SKY = "sun, moon, star, cloud, rainbow, fire, lightning, wave"
PEOPLE = "astronaut, clown, woman, man, baby"
EMOTIONS = """happy, laughing, sad, crying, angry, afraid, surprised, disgusted, sleepy, in love,
neutral"""
WORDS = re.split(r",\s+", ", ".join((ANIMALS, FOOD, PLANTS, VEHICLES, OBJECTS, SKY, PEOPLE)))

every_concept = pytest.mark.parametrize(
    "concept", range(len(concepts())), ids=[concept.name for concept in concepts()]
)


@pytest.fixture(scope="module")
def random_scenes() -> list[Scene]:
    """As training draws them, but small."""
    return [draw_scene((7, seed), size=64) for seed in range(250)]


def same(one: Scene, other: Scene) -> bool:
    facts = [
        (scene.background, scene.caption, [(o.concept, o.style, o.glyph) for o in scene.objects])
        for scene in (one, other)
    ]
    masks = zip(one.objects, other.objects, strict=True)
    return (
        facts[0] == facts[1]
        and one.image.tobytes() == other.image.tobytes()
        and all(a.mask.tobytes() == b.mask.tobytes() for a, b in masks)
    )


def box(mask: np.ndarray) -> tuple[int, int]:
    """Height and width of what a mask covers."""
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def centre(mask: np.ndarray) -> np.ndarray:
    """Centre of gravity (row, column) of a mask."""
    return np.argwhere(mask).mean(0) + 0.5


def says(caption: str, phrase: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", caption) is not None


# The seed decides.


def test_the_same_seed_draws_the_same_scene(random_scenes):
    # Backwards: no scene depends on what was drawn before it.
    for seed in reversed(range(0, 250, 5)):
        assert same(draw_scene((7, seed), size=64), random_scenes[seed])


def test_another_seed_draws_another_scene(random_scenes):
    assert len({scene.image.tobytes() for scene in random_scenes}) == len(random_scenes)
    assert not same(draw_scene(3), draw_scene((3, 0, 1)))


def test_a_scene_can_be_changed_without_changing_later_ones():
    before = draw_scene(5, background="grass")
    copy = before.image.copy()
    before.image[:] = 0
    assert (draw_scene(5, background="grass").image == copy).all()


# Variations.


def test_varied_objects_look_otherwise_and_stand_where_they_stood():
    usual = [draw_scene((3, seed), size=112, count=1, background="grey") for seed in range(40)]
    other = [
        draw_scene((3, seed), size=112, count=1, background="grey", varied=True)
        for seed in range(40)
    ]
    assert sum(not same(a, b) for a, b in zip(usual, other, strict=True)) > 30
    for a, b in zip(usual, other, strict=True):
        assert a.objects[0].concept == b.objects[0].concept
        both = (a.objects[0].mask & b.objects[0].mask).sum()
        assert both > 0.4 * a.objects[0].mask.sum()


def test_a_varied_scene_follows_from_its_seed_and_leaves_the_sprites_alone():
    before = draw_scene(6, names=("horse",))
    assert same(draw_scene(5, varied=True), draw_scene(5, varied=True))
    assert same(draw_scene(6, names=("horse",)), before)


def test_every_variation_keeps_a_sprite_a_sprite():
    sprite = sprites("noto")[concepts()[0].glyphs[0]][0]
    for seed in range(100):
        varied = vary(np.random.default_rng(seed), sprite)
        assert varied.shape == sprite.shape
        assert varied.dtype == np.uint8
        assert (varied[..., :3] <= varied[..., 3:]).all()  # premultiplied
        assert varied[..., 3].max() > 200


# Masks.


def test_types_and_shapes(random_scenes):
    for scene in random_scenes:
        assert scene.image.shape == (64, 64, 3)
        assert scene.image.dtype == np.uint8
        assert 1 <= len(scene.objects) <= 4
        for thing in scene.objects:
            assert thing.mask.shape == (64, 64)
            assert thing.mask.dtype == bool


def test_masks_are_disjoint_and_no_object_is_hidden(random_scenes):
    for scene in random_scenes:
        masks = np.stack([thing.mask for thing in scene.objects])
        assert masks.sum(0).max() <= 1
        assert masks.any((1, 2)).all()


@pytest.mark.parametrize("style", [style for style in STYLES if style != INK_STYLE])
def test_masks_are_where_the_objects_were_drawn(style):
    """Two scenes that differ in their background alone are equal exactly where an object is."""
    names = ("horse", "apple", "car")
    grass, sky = (
        draw_scene(11, names=names, styles=(style,), background=background)
        for background in ("grass", "sky")
    )
    mask = np.any([thing.mask for thing in grass.objects], axis=0)
    assert (mask == np.any([thing.mask for thing in sky.objects], axis=0)).all()
    equal = (grass.image == sky.image).all(-1)
    # The outline is half object, half background: leave out a few pixels on both sides of it.
    square = np.ones((5, 5), np.uint8)
    inside = cv2.erode(mask.astype(np.uint8), square) > 0
    outside = cv2.dilate(mask.astype(np.uint8), square) == 0
    assert inside.sum() > 1000
    assert equal[inside].mean() > 0.95  # some drawings have a translucent part
    assert not equal[outside].any()


@pytest.mark.parametrize("background", ["white", "black"])
def test_ink_is_seen_on_any_background(background):
    scene = draw_scene(2, names=("anchor",), styles=(INK_STYLE,), background=background)
    mask = scene.objects[0].mask
    assert abs(scene.image[mask].mean() - scene.image[~mask].mean()) > 150


# Concepts and styles.


@every_concept
def test_every_concept_has_the_held_out_style_and_five_to_learn_from(concept):
    assert drawable(concept, (HELD_OUT_STYLE,))
    assert sum(bool(drawable(concept, (style,))) for style in TRAINING_STYLES) >= 5


@every_concept
def test_every_concept_is_drawn_in_the_held_out_style_at_the_size_asked_for(concept):
    name, side = concepts()[concept].name, 0.6 * 160
    scene = draw_scene(concept, size=160, names=(name,), styles=(HELD_OUT_STYLE,), scale=(0.6, 0.6))
    (thing,) = scene.objects
    assert (thing.concept, thing.style) == (concept, HELD_OUT_STYLE)
    assert thing.glyph in concepts()[concept].glyphs
    # Turned by up to 15 degrees and drawn with a small margin.
    assert 0.95 * math.cos(math.radians(15)) * side - 3 <= max(box(thing.mask)) <= side + 1


def test_the_held_out_style_is_never_drawn_unasked(random_scenes):
    assert set(TRAINING_STYLES) == set(STYLES) - {HELD_OUT_STYLE}
    assert {thing.style for s in random_scenes for thing in s.objects} == set(TRAINING_STYLES)


@pytest.mark.parametrize("word", WORDS)
def test_the_models_must_know(word):
    without_article = {
        re.sub(r"^(a|an|the) ", "", phrase) for entry in concepts() for phrase in entry.phrases
    }
    assert word in concept_index() or word in without_article


@pytest.mark.parametrize("emotion", re.split(r",\s+", EMOTIONS))
def test_emotions_have_several_faces_and_words(emotion):
    entry = concepts()[concept_index()[emotion]]
    assert len(entry.glyphs) >= 2
    assert len(entry.phrases) >= 4


def test_nothing_is_listed_twice():
    entries = concepts()
    for what in ("glyphs", "phrases"):
        listed = [value for entry in entries for value in getattr(entry, what)]
        assert len(listed) == len(set(listed)), what
    assert len(concept_index()) == len(entries)


# Captions.


def test_captions_name_every_object(random_scenes):
    for scene in random_scenes:
        for thing in scene.objects:
            phrases = concepts()[thing.concept].phrases
            assert any(says(scene.caption, phrase) for phrase in phrases), scene.caption


def test_captions_name_nothing_else(random_scenes):
    for scene in random_scenes:
        # The longest phrases first: "a hot dog" is not a dog, nor "a snowman" a man.
        words = scene.caption
        shown = [p for thing in scene.objects for p in concepts()[thing.concept].phrases]
        for phrase in sorted(shown, key=len, reverse=True):
            words = re.sub(rf"(?<!\w){re.escape(phrase)}(?!\w)", "...", words)
        words = re.sub(r"an emoji of|a (picture|photo|drawing) of", "", words)
        for entry in concepts():
            assert not any(says(words, phrase) for phrase in entry.phrases), scene.caption


def test_captions_name_the_background_or_say_nothing_of_it(random_scenes):
    said = 0
    for scene in random_scenes:
        words = {name: words for name, (_, words) in BACKGROUNDS.items() if words}
        words |= {name: f"on a {name} background" for name in COLOURS}
        named = [name for name, phrase in words.items() if says(scene.caption, phrase)]
        assert named in ([], [scene.background]), scene.caption
        said += bool(named)
    assert 0 < said < len(random_scenes)


@pytest.mark.parametrize("background", ["grass", "sky", "sea", "night", "snow", "sand"])
def test_backgrounds_have_words(background):
    assert says(BACKGROUNDS[background][1], background)


# What is asked for.


@pytest.mark.parametrize("size", [32, 112, 336])
def test_a_scene_is_the_same_at_any_size(size):
    for seed in range(10):
        usual, other = draw_scene(seed), draw_scene(seed, size=size)
        assert other.image.shape == (size, size, 3)
        assert (other.caption, other.background) == (usual.caption, usual.background)
        for one, two in zip(usual.objects, other.objects, strict=True):
            assert (one.concept, one.style, one.glyph) == (two.concept, two.style, two.glyph)
            # To two pixels of the smaller image: places and sides are whole pixels.
            move = centre(one.mask) / 224 - centre(two.mask) / size
            assert np.abs(move).max() * min(size, 224) < 2


@pytest.mark.parametrize("background", [*BACKGROUNDS, *COLOURS])
def test_background_is_respected(background):
    assert draw_scene(4, size=64, background=background).background == background


@pytest.mark.parametrize("colour", COLOURS)
def test_plain_backgrounds_have_their_colour(colour):
    scene = draw_scene(9, size=64, count=1, scale=(0.3, 0.3), background=colour)
    corners = scene.image[[0, 0, -1, -1], [0, -1, 0, -1]]
    distances = {
        name: np.abs(np.median(corners, axis=0) - value).sum() for name, value in COLOURS.items()
    }
    assert min(distances, key=distances.get) == colour


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_count_is_respected(count):
    for seed in range(10):
        scene = draw_scene(seed, size=64, count=count)
        assert len({thing.concept for thing in scene.objects}) == len(scene.objects) == count


def test_names_are_respected_in_their_order():
    names = ("zebra", "ice cream", "in love")
    for seed in range(10):
        scene = draw_scene(seed, size=64, names=names)
        assert tuple(concepts()[thing.concept].name for thing in scene.objects) == names


@pytest.mark.parametrize("style", STYLES)
def test_style_is_respected(style):
    scene = draw_scene(1, size=64, names=("horse", "tree"), styles=(style,))
    assert {thing.style for thing in scene.objects} == {style}


@pytest.mark.parametrize("count", SCALES)
def test_objects_are_as_large_as_they_should_be(count):
    low, high = SCALES[count]
    sides = [
        max(box(thing.mask)) / 112
        for seed in range(40)
        for thing in draw_scene(seed, size=112, count=count, styles=(HELD_OUT_STYLE,)).objects
    ]
    # One object may hide a part of another, or be made smaller to fit beside it.
    assert 0.6 * low < min(sides)
    assert max(sides) <= high + 0.02
    assert np.ptp(sides) > 0.5 * (high - low)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"names": ("unicorn",)}, "unicorn"),
        ({"names": ()}, "concepts"),
        ({"names": ("zebra",), "styles": ("fxemoji",)}, "zebra cannot be drawn in fxemoji"),
        ({"background": "unicorn"}, "unicorn.*grass"),
        ({"styles": ("unicorn",)}, "noto"),
        ({"styles": "noto"}, "tuple"),
        ({"count": 0}, "1 to 9"),
        ({"count": 30}, "1 to 9"),
        ({"scale": (1.2, 1.5)}, "fractions"),
    ],
)
def test_what_cannot_be_drawn_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        draw_scene(0, **wrong)


# The scenes in Images/.


every_picture = pytest.mark.parametrize(
    "picture", make_images.PICTURES, ids=lambda picture: picture.name
)


@every_picture
def test_images_are_what_their_table_draws(picture):
    for path, pixels in make_images.files(picture):
        with Image.open(IMAGES / path) as image:
            stored = np.asarray(image)
        assert stored.shape == pixels.shape
        if path.startswith("masks/"):
            assert set(np.unique(stored)) == {0, 255}
            assert (stored != pixels).sum() <= 4  # see below
        else:
            # Another processor may round the last bit the other way.
            assert np.abs(stored.astype(int) - pixels).max() <= 2


def test_images_are_drawn_to_the_same_bytes_each_time(tmp_path):
    for run in ("one", "two"):
        make_images.main(["--folder", str(tmp_path / run)])
    drawn = [
        {path.relative_to(tmp_path / run): path.read_bytes() for path in files if path.is_file()}
        for run in ("one", "two")
        for files in [sorted((tmp_path / run).rglob("*"))]
    ]
    assert drawn[0] == drawn[1]
    masks = {path for path in drawn[0] if path.parts[:2] == ("Images", "masks")}
    stored = (IMAGES / "masks").rglob("*.png")
    assert {path.relative_to(make_images.ROOT) for path in stored} == masks


@every_picture
def test_objects_of_images_are_large_and_apart(picture):
    masks = [thing.mask for thing in picture.draw().objects]
    assert all(0.35 <= max(box(mask)) / 224 <= 0.85 for mask in masks)
    near = [cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) for mask in masks]
    assert np.sum(near, axis=0).max() == 1


def test_images_are_documented_small_and_not_share_alike():
    readme = (IMAGES / "README.md").read_text(encoding="utf-8")
    drawn = {f"{picture.name}.png" for picture in make_images.PICTURES}
    there = {path.name for path in IMAGES.glob("*.png")}
    assert drawn <= there
    for name in drawn | {"astronaut.png", "camera.png", "chelsea.png", "coffee.png"}:
        assert f"| `{name}` |" in readme
        path = IMAGES / name
        assert path.stat().st_size <= 600_000
        with Image.open(path) as image:
            image.load()
            assert image.mode == ("L" if name == "camera.png" else "RGB")
    assert "openmoji" not in {picture.style for picture in make_images.PICTURES}


def test_every_texture_is_there():
    """A texture that was not shipped would fail only on the seeds that ask for it."""
    assert len(scenes.textures()) == 3
    assert all(min(texture.shape) >= scenes.BACKGROUND_SIZE for texture in scenes.textures())
