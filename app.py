"""The page: put your hands into a fine-tuned CLIP. ``python app.py --help`` lists its options."""

from copra_lab.utils.extras import MissingExtra

try:
    from copra_lab.page import build
    from copra_lab.page.serve import main
except MissingExtra as e:
    raise SystemExit(str(e)) from None

demo = build()

if __name__ == "__main__":
    main(page=demo)
