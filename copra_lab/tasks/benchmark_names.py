"""Class names of the field's data sets where prompts need others than the files say.

They are CoOp's (arXiv:2109.01134, its ``datasets/``).
"""

CALTECH = {
    "airplanes": "airplane",
    "Faces": "face",
    "Leopards": "leopard",
    "Motorbikes": "motorbike",
}
"""Folder → name."""

EUROSAT = {
    "AnnualCrop": "Annual Crop Land",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "SeaLake": "Sea or Lake",
}
"""Folder → name."""

FLOWERS = (
    "pink primrose;hard-leaved pocket orchid;canterbury bells;sweet pea;english marigold;"
    "tiger lily;moon orchid;bird of paradise;monkshood;globe thistle;snapdragon;colt's foot;"
    "king protea;spear thistle;yellow iris;globe-flower;purple coneflower;peruvian lily;"
    "balloon flower;giant white arum lily;fire lily;pincushion flower;fritillary;red ginger;"
    "grape hyacinth;corn poppy;prince of wales feathers;stemless gentian;artichoke;sweet william;"
    "carnation;garden phlox;love in the mist;mexican aster;alpine sea holly;ruby-lipped cattleya;"
    "cape flower;great masterwort;siam tulip;lenten rose;barberton daisy;daffodil;sword lily;"
    "poinsettia;bolero deep blue;wallflower;marigold;buttercup;oxeye daisy;common dandelion;"
    "petunia;wild pansy;primula;sunflower;pelargonium;bishop of llandaff;gaura;geranium;"
    "orange dahlia;pink-yellow dahlia;cautleya spicata;japanese anemone;black-eyed susan;"
    "silverbush;californian poppy;osteospermum;spring crocus;bearded iris;windflower;tree poppy;"
    "gazania;azalea;water lily;rose;thorn apple;morning glory;passion flower;lotus;toad lily;"
    "anthurium;frangipani;clematis;hibiscus;columbine;desert-rose;tree mallow;magnolia;cyclamen;"
    "watercress;canna lily;hippeastrum;bee balm;ball moss;foxglove;bougainvillea;camellia;mallow;"
    "mexican petunia;bromelia;blanket flower;trumpet creeper;blackberry lily"
).split(";")
"""In the order of their numbers, which are all that the files say; from the data set's page."""
