"""Lesson 1's mistakes, as readers would write them: (a part of the solution, what stands there
instead, words of the check's answer).
"""

MISTAKES = [
    ("template.format(name) for name in names", "name for name in names", "template"),
    ("F.normalize(clip.model.encode_image(clip.pixels(images)), dim=-1)", "clip.model.encode_image(clip.pixels(images))", "images' do not"),
    ("F.normalize(clip.model.encode_text(clip.tokenizer(texts)), dim=-1)", "clip.model.encode_text(clip.tokenizer(texts))", "texts' do not"),
    ("(clip.pixels(images)), dim=-1)", "(clip.pixels(images)), dim=0)", None),
    ("clip.logit_scale * ", "", "almost flat"),
    ("clip.logit_scale * ", "clip.model.logit_scale * ", "logarithm"),
    (".softmax(dim=-1)", ".softmax(dim=0)", "ran over the images"),
    (".softmax(dim=-1)", "", "These are logits"),
    (".argmax(dim=-1)", ".argmin(dim=-1)", "least likely"),
    (".argmax(dim=-1)", ".argmax(dim=0)", "one prediction per name"),
    ("(clip.logit_scale * image_features @ text_features.T).softmax(dim=-1)", "(clip.logit_scale * text_features @ image_features.T).softmax(dim=0)", "one row per text"),
    ("return probabilities, probabilities.argmax(dim=-1)", "return probabilities", "2 tensors"),
    ("return probabilities, probabilities.argmax(dim=-1)", "", "`return` missing"),
]  # fmt: skip
